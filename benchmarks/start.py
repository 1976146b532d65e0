"""From the command to the page and to the first token, and the memory, beside an empty Gradio app."""

from __future__ import annotations

import asyncio
import sys

from benchmarks.load import post
from benchmarks.processes import Process, free_port
from benchmarks.report import Measured, Row, median
from benchmarks.servers import QUESTION, our_app
from benchmarks.upstream import Pace, upstream
from dspy_demo.settings import Settings

#: What an empty Gradio app with DSPy takes: the least that such an app can.
EMPTY = ("-m", "benchmarks.peers.chat_interface", "--empty", "--with-dspy")

#: How long dspy's import may take, which begins when the page is there.
IMPORTING_S = 6.0


async def measure(settings: Settings, *, quick: bool) -> Measured:
    rounds = 1 if quick else 5
    page_s: list[float] = []
    token_s: list[float] = []
    empty_s: list[float] = []
    memory, empty_memory = 0, 0
    with upstream(Pace(tokens=20)) as model:
        for _ in range(rounds):
            with our_app(model, ready_path="/") as process:
                page_s.append(process.ready_s)
                heard = await post(f"{process.url}/predict/stream", {"text": QUESTION})
                token_s.append(process.ready_s + heard.first_token_s)
                await asyncio.sleep(IMPORTING_S)
                memory = process.memory_bytes
            port = free_port()
            with Process([sys.executable, *EMPTY, "--port", str(port)], port) as process:
                process.wait_until_answers("/")
                empty_s.append(process.ready_s)
                await asyncio.sleep(IMPORTING_S)
                empty_memory = process.memory_bytes
    rows = [
        Row("start to the first page", "s", median(page_s), "an empty Gradio app", median(empty_s), 1.1),
        Row(
            "start to the first token",
            "s",
            median(token_s),
            "an empty Gradio app's page",
            median(empty_s),
            1.1,
        ),
        Row(
            "memory after the first answer",
            "MB",
            memory / 1e6,
            "an empty Gradio app with dspy imported",
            empty_memory / 1e6,
            ratio_max=1.3,
        ),
    ]
    return Measured(rows, {"page_s": page_s, "token_s": token_s, "empty_s": empty_s})
