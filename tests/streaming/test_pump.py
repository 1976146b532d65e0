"""The pump: items in order, a bounded lead, and a source that is closed before leaving is over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from dspy_demo.streaming.turn_stream import TurnStream


class Source:
    """A scripted stream that remembers how far it got and how it ended."""

    def __init__(self, items: int = 0, *, then: BaseException | None = None, silent: bool = False) -> None:
        self.items = items
        self.then = then
        self.silent = silent
        self.sent = 0
        self.waiting = asyncio.Event()  # all items are out, and nothing more comes
        self.closed = False
        self.task: asyncio.Task[None] | None = None

    async def stream(self) -> AsyncIterator[int]:
        self.task = asyncio.current_task()
        try:
            for item in range(self.items):
                self.sent += 1
                yield item
            if self.then is not None:
                raise self.then
            if self.silent:
                self.waiting.set()
                await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)  # closing takes a moment, as that of a socket does
            self.closed = True


async def settle() -> None:
    """Let every task run until it waits for somebody else."""
    for _ in range(50):
        await asyncio.sleep(0)


async def test_items_come_in_order_and_the_source_is_closed() -> None:
    source = Source(1000)
    async with TurnStream(source.stream(), buffer_items=7) as pump:
        assert [item async for item in pump] == list(range(1000))
    assert source.closed


async def test_an_empty_source_just_ends() -> None:
    async with TurnStream(Source(0).stream()) as pump:
        assert [item async for item in pump] == []


async def test_the_end_stays_the_end() -> None:
    async with TurnStream(Source(1).stream()) as pump:
        assert [item async for item in pump] == [0]
        assert [item async for item in pump] == []


async def test_a_slow_reader_holds_the_source_back() -> None:
    source = Source(1000)
    async with TurnStream(source.stream(), buffer_items=4) as pump:
        await settle()
        assert source.sent == 5  # four wait in the buffer, one in the source's hand
        assert await anext(pump) == 0
        await settle()
        assert source.sent == 6
    assert source.closed
    assert source.sent == 6


async def test_a_plain_async_iterator_is_a_source_too() -> None:
    class Countdown:
        left = 3

        def __aiter__(self) -> Countdown:
            return self

        async def __anext__(self) -> int:
            if not self.left:
                raise StopAsyncIteration
            self.left -= 1
            return self.left

    async with TurnStream(Countdown()) as pump:
        assert [item async for item in pump] == [2, 1, 0]


async def test_what_the_source_raises_comes_after_all_its_items() -> None:
    source = Source(3, then=ValueError("broken"))
    got: list[int] = []
    async with TurnStream(source.stream()) as pump:
        await settle()
        with pytest.raises(ValueError, match="broken"):
            async for item in pump:
                got.append(item)
    assert got == [0, 1, 2]
    assert source.closed


async def test_a_failure_after_the_reader_left_is_not_reported(caplog: pytest.LogCaptureFixture) -> None:
    async with TurnStream(Source(1, then=ValueError("unseen")).stream()):
        await settle()
    await settle()
    assert "never retrieved" not in caplog.text


async def test_stop_while_the_source_is_silent() -> None:
    source = Source(2, silent=True)
    async with TurnStream(source.stream()) as pump:
        assert [await anext(pump), await anext(pump)] == [0, 1]
        await source.waiting.wait()
        await pump.close()
        assert source.closed, "stop returns only when the source is closed"
        assert [item async for item in pump] == []


async def test_stop_while_the_source_waits_for_a_slow_reader() -> None:
    source = Source(100)
    async with TurnStream(source.stream(), buffer_items=2) as pump:
        await settle()
        await pump.close()
        assert source.closed
        assert source.sent == 3


async def test_after_stop_buffered_items_are_dropped() -> None:
    async with TurnStream(Source(5, silent=True).stream()) as pump:
        await settle()
        await pump.close()
        assert [item async for item in pump] == []


async def test_stop_twice_and_at_once() -> None:
    source = Source(1, silent=True)
    async with TurnStream(source.stream()) as pump:
        await source.waiting.wait()
        await asyncio.gather(pump.stop(), pump.stop())
        await pump.close()
    assert source.closed


async def test_stop_after_the_natural_end() -> None:
    async with TurnStream(Source(1).stream()) as pump:
        assert [item async for item in pump] == [0]
        await pump.close()


async def test_stop_from_another_task_wakes_the_waiting_reader() -> None:
    source = Source(1, silent=True)
    async with TurnStream(source.stream()) as pump:

        async def read() -> list[int]:
            return [item async for item in pump]

        reader = asyncio.create_task(read())
        await source.waiting.wait()
        await settle()
        assert not reader.done()
        await pump.close()
        assert await reader == [0]
    assert source.closed


async def test_a_break_closes_the_source() -> None:
    source = Source(10, silent=True)
    async with TurnStream(source.stream()) as pump:
        async for _ in pump:
            break
    assert source.closed


async def test_an_exception_in_the_loop_closes_the_source_and_is_kept() -> None:
    source = Source(10, silent=True)
    with pytest.raises(KeyError, match="ours"):
        async with TurnStream(source.stream()) as pump:
            async for _ in pump:
                raise KeyError("ours")
    assert source.closed


async def test_cancelling_the_reader_closes_the_source() -> None:
    source = Source(1, silent=True)

    async def read() -> None:
        async with TurnStream(source.stream()) as pump:
            async for _ in pump:
                pass

    reader = asyncio.create_task(read())
    await source.waiting.wait()
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    assert source.closed


async def test_the_source_lives_in_one_task_that_is_not_the_readers() -> None:
    source = Source(3)
    async with TurnStream(source.stream()) as pump:
        assert [item async for item in pump] == [0, 1, 2]
    assert source.task is not None
    assert source.task is not asyncio.current_task()
    assert source.task.get_name() == "pump"
    assert source.task.done()


async def test_many_pumps_do_not_mix() -> None:
    async def read(start: int) -> list[int]:
        async def numbers() -> AsyncIterator[int]:
            for offset in range(50):
                await asyncio.sleep(0)
                yield start + offset

        async with TurnStream(numbers(), buffer_items=3) as pump:
            return [item async for item in pump]

    read_by = await asyncio.gather(*(read(1000 * n) for n in range(100)))
    assert read_by == [list(range(1000 * n, 1000 * n + 50)) for n in range(100)]
