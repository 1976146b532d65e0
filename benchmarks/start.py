"""From the command to the first page, and the memory after the first answer, beside an empty Gradio app."""

import asyncio
from collections import defaultdict
from pathlib import Path

from benchmarks.houses import QUESTION, houses, peer
from benchmarks.load import post
from benchmarks.report import Row, median
from benchmarks.upstream import Pace, upstream

EMPTY = "an empty Gradio app"
IMPORTING_S = 6.0  # for dspy, whose import begins when the page is there


async def measure(before: Path | None, folder: Path, *, quick: bool) -> list[Row]:
    page_s: dict[str, list[float]] = defaultdict(list)
    memory_mb: dict[str, float] = {}
    with upstream(Pace(tokens=20)) as model:
        for _ in range(1 if quick else 5):
            for house in houses(before):
                with house.app(model, ready_path="/") as process:
                    page_s[house.name].append(process.ready_s)
                    await post(f"{process.url}/predict/stream", {"text": QUESTION})
                    await asyncio.sleep(IMPORTING_S)
                    memory_mb[house.name] = process.memory_mb
            with peer("chat_interface", "--empty", "--with-dspy") as process:
                page_s[EMPTY].append(process.ready_s)
                await asyncio.sleep(IMPORTING_S)
                memory_mb[EMPTY] = process.memory_mb
    pages = {name: median(times) for name, times in page_s.items()}
    memory = Row.beside("memory after the first answer", "MB", memory_mb, {})
    return [*Row.beside("start to the first page", "s", pages, {EMPTY: 1.2}), *memory]
