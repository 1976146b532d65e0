"""The stream of a turn: items in order, a bounded lead, work that is closed before leaving is over."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio
import pytest

from dspy_demo.streaming.turn_stream import AHEAD_MAX, TurnStream


class Source:
    """Scripted work that remembers how far it got and how it ended."""

    def __init__(self, items, *, then=None):
        self.items, self.then = items, then
        self.sent, self.closed = 0, False

    async def fill(self, stream):
        try:
            for item in range(self.items):
                self.sent += 1
                await stream.send(item)
            if self.then is not None:
                raise self.then
        finally:
            await asyncio.sleep(0)  # closing takes a moment, as that of a socket does
            self.closed = True


async def settle():
    """Let every task run until it waits for another."""
    for _ in range(50):
        await asyncio.sleep(0)


async def test_items_come_in_order_a_slow_reader_holds_the_work_back_and_a_failure_is_last():
    source = Source(1000, then=ValueError("broken"))
    async with TurnStream[int]() as stream:
        stream.start(source.fill(stream))
        await settle()
        assert source.sent == AHEAD_MAX
        got: list[int] = []
        with pytest.raises(ValueError, match="broken"):
            async for item in stream:
                got.append(item)
        assert got == list(range(1000))
    assert source.closed


@pytest.mark.parametrize("end", ["close", "fail", "cancel"])
@pytest.mark.parametrize(("items", "then"), [(100, None), (1, ValueError("?"))])
async def test_leaving_closes_the_work_first_and_drops_what_was_not_read(items, then, end, caplog):
    source = Source(items, then=then)

    async def read():
        async with TurnStream[int]() as stream:
            stream.start(source.fill(stream))
            events = aiter(stream)
            first = await anext(events)
            await settle()
            if end != "close":
                raise ValueError if end == "fail" else asyncio.CancelledError
            await asyncio.gather(*(stream.close() for _ in range(2)))
            assert source.closed
            return [first, *[item async for item in events]]

    result = (await asyncio.gather(asyncio.create_task(read()), return_exceptions=True))[0]
    assert source.closed
    assert result == [0] or isinstance(result, ValueError | asyncio.CancelledError)
    await settle()
    assert "never retrieved" not in caplog.text


async def test_a_thread_puts_items_and_makes_its_calls_in_the_loop_until_the_turn_is_over():
    async def call():
        return asyncio.get_running_loop()

    def work():
        stream.put("from a thread")
        return stream.run(call).result()

    async with TurnStream[Any]() as stream:
        stream.start(asyncio.to_thread(work))
        assert [item async for item in stream] == ["from a thread"]
        assert stream.result() is asyncio.get_running_loop()
        assert stream.run(call) is None, "it is in the loop's own thread"
    with pytest.raises(anyio.ClosedResourceError):
        await stream.send("too late")
    with pytest.raises(asyncio.CancelledError):
        stream.check_open()
