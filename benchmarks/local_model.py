"""A model in this process: tokens a second and the first token, beside the runtime's own calls.

The weights are random; the pace is that of any model of this size. Both sides get the same prompts and, but
for `runtime_free`, the same grammar. They take turns, each with a copy of the model in memory.
"""

from __future__ import annotations

import statistics
import time
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.report import Measured, Row
from dspy_demo.lm.local.files import LocalModel
from dspy_demo.lm.local.grammar import chat_grammar
from dspy_demo.lm.local.runtime import Load, LoadedModel
from dspy_demo.settings import Settings
from tests.tiny_gguf import Size, write_tiny_gguf

CONTEXT_TOKENS = 2048
SMALL = Size(width=256, layers=6, heads=8, more_pieces=30_000)


@dataclass
class Figures:
    """Of each round: seconds to the first token, tokens a second after it."""

    first_s: list[float] = field(default_factory=list)
    per_s: list[float] = field(default_factory=list)

    def add(self, started: float, first: float, ended: float, tokens: int) -> None:
        self.first_s.append(first - started)
        self.per_s.append((tokens - 1) / (ended - first))


async def measure(settings: Settings, *, quick: bool) -> Measured:
    import dspy

    from dspy_demo.lm.local.engine import local_lm
    from dspy_demo.lm.local.runtime import default_threads, jobs

    rounds, max_tokens = (2, 16) if quick else (5, 100)
    path = write_tiny_gguf(Path(settings.data_dir, "bench.gguf"), Size() if quick else SMALL)
    model = LocalModel(str(path), path, size_bytes=path.stat().st_size, title="Bench")
    program, adapter = dspy.ChainOfThought("question -> answer"), dspy.ChatAdapter()
    signature = program.predict.signature
    grammar = chat_grammar(signature, max_tokens)
    assert grammar is not None
    runtime = LoadedModel(Load(path, CONTEXT_TOKENS, default_threads()))
    lm = local_lm(model, context_tokens=CONTEXT_TOKENS, cache=False, temperature=0.0, max_tokens=max_tokens)
    found = {name: Figures() for name in ("ours", "runtime", "runtime_free")}
    for number in range(rounds + 1):
        if number == 1:  # the first round loads and warms up
            found = {name: Figures() for name in found}
        # Questions of their own: what one side has read already would be quick for the other.
        for name, constraint in (("runtime_free", {}), ("runtime", {"grammar": grammar.text})):
            messages = adapter.format(signature, [], {"question": f"What is {number} + {len(name)}?"})
            request = {"messages": messages, "max_tokens": max_tokens, "temperature": 0.0, **constraint}
            _ask_runtime(runtime, request, found[name])
        with dspy.context(lm=lm, adapter=adapter, track_usage=True):
            await _ask_ours(program, f"What is {number} + 4?", found["ours"])
    jobs.close()
    runtime.close()
    middle = {name: statistics.median(figures.per_s) for name, figures in found.items()}
    first = {name: statistics.median(figures.first_s) for name, figures in found.items()}
    detail = {
        "file_mb": round(model.size_bytes / 1e6, 1),
        **{f"tokens_per_s_{name}": round(value, 1) for name, value in middle.items()},
        **{f"first_token_s_{name}": round(value, 4) for name, value in first.items()},
    }
    alone = "the runtime alone"
    return Measured(
        [
            Row("local model: pace", "s/token", 1 / middle["ours"], alone, 1 / middle["runtime"]),
            Row("local model: first token", "s", first["ours"], alone, first["runtime"]),
        ],
        detail,
    )


def _ask_runtime(model: LoadedModel, request: dict[str, Any], figures: Figures) -> None:
    first = 0.0
    tokens = 0
    started = time.perf_counter()

    def hear(chunk: dict[str, Any]) -> bool:
        nonlocal first, tokens
        if not first and any(choice["delta"].get("content") for choice in chunk.get("choices", ())):
            first = time.perf_counter()
        tokens = (chunk.get("usage") or {}).get("completion_tokens", tokens)
        return False

    model.generate({**request, "stream_options": {"include_usage": True}}, hear)
    figures.add(started, first, time.perf_counter(), tokens)


async def _ask_ours(program: Any, question: str, figures: Figures) -> None:
    import dspy

    first, usage = 0.0, {}
    started = time.perf_counter()
    async with aclosing(dspy.streamify(program, is_async_program=True)(question=question)) as stream:
        async for value in stream:
            first = first or time.perf_counter()
            if isinstance(value, dspy.Prediction):
                usage = value.get_lm_usage()
    ended = time.perf_counter()
    figures.add(started, first, ended, sum(entry["completion_tokens"] for entry in usage.values()))
