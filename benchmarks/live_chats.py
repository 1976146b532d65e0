"""Many pages with a running answer at once: the age of the tokens that they show, and the memory they take.

Beside it the plain SSE route of the same app, with as many streams. 100 chats run at the pace of a fast
model; the growth up to 300 is looked at with a slower one, since 300 fast ones are more than one core's DSPy
can read.
"""

from __future__ import annotations

import asyncio
from typing import Any

from benchmarks.chats import Server, our_page
from benchmarks.load import Heard, send
from benchmarks.page import TOKENS_PER_S, open_chats, streaming
from benchmarks.report import Measured, Row, quantile
from benchmarks.servers import QUESTION
from benchmarks.upstream import Pace, upstream
from dspy_demo.settings import Settings

MANY, FEW, HISTORY, SHORT = 100, 30, 100, 10
SLOW_TOKENS_PER_S = 3.0


async def measure(settings: Settings, *, quick: bool) -> Measured:
    counts, lengths, seconds = (
        ((2,), (10,), 0.5) if quick else ((1, FEW, MANY, 200, 300), (10, HISTORY, 500), 5.0)
    )
    ages: dict[str, Any] = {"chats": {}, "routes": {}, "history": {}}
    many = min(MANY, counts[-1])
    with upstream(Pace(tokens=100_000, per_second=TOKENS_PER_S)) as model, our_page(model) as server:
        idle_bytes = server.process.memory_bytes
        await _chats(server, 1, 10, 0.2)  # whatever the first one brings into memory
        warm_bytes = server.process.memory_bytes
        short = await _chats(server, many, SHORT, 0.5)
        route = await _routes(server, many, seconds)
        ours = await _chats(server, many, HISTORY, seconds)
        model.pace(Pace(tokens=100_000, per_second=TOKENS_PER_S if quick else SLOW_TOKENS_PER_S))
        for count in counts:
            ages["routes"][count] = await _routes(server, count, seconds)
            ages["chats"][count] = await _chats(server, count, HISTORY, seconds)
        for length in lengths:
            with our_page(model) as fresh:  # no chat before has left memory that these could use
                ages["history"][length] = await _chats(fresh, min(FEW, counts[-1]), length, seconds)
    per_chat_kb = (short["memory_bytes"] - warm_bytes) / many / 1000
    rows = [
        Row(
            f"age of a token, p95, {many} live chats of {HISTORY} messages, 20 tokens/s each",
            "ms",
            ours["p95_ms"],
            "the plain SSE route",
            route["p95_ms"],
            ratio_max=1.5,
            most=100,
        ),
        Row(f"memory for each live chat of {SHORT} messages", "kB", per_chat_kb, most=200),
    ]
    detail = {"idle_bytes": idle_bytes, "warm_bytes": warm_bytes, "fast": {"chats": ours, "routes": route}}
    return Measured(rows, detail | {"ages": ages})


async def _chats(server: Server, count: int, length: int, seconds: float) -> dict[str, float]:
    chats = await open_chats(server, count, length)
    try:
        for chat in chats:
            await chat.ask()
        await streaming(chats)
        return await _watched(server, seconds, [chat.heard for chat in chats])
    finally:
        for chat in chats:
            await chat.close()
        await asyncio.sleep(1.0)  # their turns end


async def _routes(server: Server, count: int, seconds: float) -> dict[str, float]:
    url = f"{server.url}/predict/stream"
    streams = []
    for _ in range(count):
        streams.append(await send(url, {"text": QUESTION}))
    heard = [stream[0] for stream in streams]
    try:
        async with asyncio.timeout(60):
            while not all(one.tokens > 2 for one in heard):
                await asyncio.sleep(0.05)
        return await _watched(server, seconds, heard)
    finally:
        for _, _, transport in streams:
            transport.abort()
        await asyncio.sleep(1.0)


async def _watched(server: Server, seconds: float, heard: list[Heard]) -> dict[str, float]:
    """What arrives in a while of steady streaming."""
    before = [one.tokens for one in heard]
    cpu_s = server.process.cpu_s
    await asyncio.sleep(seconds)
    memory_bytes, cpu_s = server.process.memory_bytes, server.process.cpu_s - cpu_s
    lags_s = [lag for one, seen in zip(heard, before, strict=True) for lag in one.lags_s[seen:]]
    shares = {f"p{share:g}_ms": quantile(lags_s, share / 100) * 1e3 for share in (50, 95, 99)}
    return shares | {
        "memory_bytes": memory_bytes,
        "cpu_share": cpu_s / seconds,
        "tokens_per_s": len(lags_s) / seconds,
    }
