"""CPU of the server per token through the page, by the length of the chat, beside other chat pages."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack

from benchmarks.chainlit_chat import chainlit_page
from benchmarks.chats import Chat, Server, chat_interface, our_page
from benchmarks.report import Measured, Row
from benchmarks.servers import started
from benchmarks.upstream import Pace, Upstream, upstream
from dspy_demo.settings import Settings

TOKENS_PER_S = 20.0


async def measure(settings: Settings, *, quick: bool) -> Measured:
    lengths, chats, seconds, rounds = ((10,), 1, 0.5, 1) if quick else ((10, 100, 500), 10, 6.0, 2)
    found: dict[tuple[str, int], float] = {}
    with upstream() as model, our_page(model) as ours, chat_interface(model) as peer, ExitStack() as more:
        others = [] if quick else started(more, "Chainlit", chainlit_page(model))
        for _ in range(rounds):
            for length in lengths:
                for server in (ours, peer, *others):
                    cpu_ms = await cpu_per_token_ms(model, server, length, chats, seconds)
                    key = (server.name, length)
                    found[key] = min(cpu_ms, found.get(key, cpu_ms))
    rows = [
        Row(
            f"CPU per token through the page, {length} messages before",
            "ms",
            found[ours.name, length],
            beside.name,
            found[beside.name, length],
            most=0.3 if beside is peer else None,
        )
        for beside in (peer, *others)
        for length in lengths
    ]
    if not quick:
        longest, shortest = found[ours.name, lengths[-1]], found[ours.name, lengths[0]]
        rows.append(
            Row("the same, 500 messages beside 10", "ms", longest, "10 messages", shortest, ratio_max=1.2)
        )
    detail = {f"{name}, {length} messages": cpu_ms for (name, length), cpu_ms in found.items()}
    return Measured(rows, detail)


async def cpu_per_token_ms(model: Upstream, server: Server, length: int, chats: int, seconds: float) -> float:
    """While all the chats are streaming: neither their begin nor their end is in it."""
    model.pace(Pace(tokens=int((seconds + 60) * TOKENS_PER_S), per_second=TOKENS_PER_S))
    opened = await open_chats(server, chats, length)
    try:
        await asyncio.gather(*(chat.ask() for chat in opened))
        await streaming(opened)
        before_s, before = server.process.cpu_s, sum(chat.heard.tokens for chat in opened)
        await asyncio.sleep(seconds)
        cpu_s = server.process.cpu_s - before_s
        tokens = sum(chat.heard.tokens for chat in opened) - before
    finally:
        for chat in opened:
            await chat.close()
        await asyncio.sleep(0.5)  # their streams end
    return cpu_s / max(tokens, 1) * 1e3


async def open_chats(server: Server, count: int, length: int) -> list[Chat]:
    chats = [server.chat() for _ in range(count)]
    for chat in chats:
        await chat.open(length)
    return chats


async def streaming(chats: list[Chat], timeout_s: float = 60.0) -> None:
    """Wait until each of them has its first tokens."""
    async with asyncio.timeout(timeout_s):
        while not all(chat.heard.tokens > 2 for chat in chats):
            await asyncio.sleep(0.05)
