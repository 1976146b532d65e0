"""The stream of a turn: items in order, a bounded lead, a source that is closed before leaving is over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import anyio
import dspy
import pytest
from dspy import lm15

from dspy_demo.errors import UpstreamCut
from dspy_demo.events import Event, FieldDelta
from dspy_demo.programs.own import spec_of
from dspy_demo.streaming.turn import run_turn
from dspy_demo.streaming.turn_stream import TurnStream

Stream = TurnStream[int]


class Source:
    """A scripted stream that remembers how far it got and how it ended."""

    def __init__(self, items: int = 0, *, then: BaseException | None = None, silent: bool = False) -> None:
        self.items, self.then, self.silent = items, then, silent
        self.sent = 0
        self.closed = False

    async def stream(self) -> AsyncIterator[int]:
        try:
            for item in range(self.items):
                self.sent += 1
                yield item
            if self.then is not None:
                raise self.then
            if self.silent:
                await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)  # closing takes a moment, as that of a socket does
            self.closed = True


async def settle() -> None:
    """Let every task run until it waits for another."""
    for _ in range(50):
        await asyncio.sleep(0)


@pytest.mark.parametrize("items", [0, 1, 1000])
async def test_items_come_in_order_and_the_end_stays_the_end(items: int) -> None:
    source = Source(items)
    async with TurnStream(source.stream(), ahead_max=7) as stream:
        assert [item async for item in stream] == list(range(items))
        assert [item async for item in stream] == []
    assert source.closed


async def test_a_slow_reader_holds_the_source_back() -> None:
    source = Source(1000)
    async with TurnStream(source.stream(), ahead_max=4) as stream:
        await settle()
        assert source.sent == 4
        assert await anext(stream) == 0
        await settle()
        assert source.sent == 5
        assert await stream.take() == [1, 2, 3, 4]
    assert source.closed


async def test_what_the_source_raises_comes_after_all_its_items() -> None:
    got: list[int] = []
    async with TurnStream(Source(3, then=ValueError("broken")).stream()) as stream:
        await settle()
        with pytest.raises(ValueError, match="broken"):
            async for item in stream:
                got.append(item)
    assert got == [0, 1, 2]


async def close(stream: Stream) -> None:
    await stream.close()


async def close_twice(stream: Stream) -> None:
    await asyncio.gather(stream.close(), stream.close())


async def fail(stream: Stream) -> None:
    raise ValueError


async def cancel(stream: Stream) -> None:
    raise asyncio.CancelledError


@pytest.mark.parametrize("end", [close, close_twice, fail, cancel])
@pytest.mark.parametrize(
    "source", [Source(2, silent=True), Source(100), Source(1, then=ValueError("unseen"))]
)
async def test_leaving_closes_the_source_first_and_drops_what_was_not_read(
    source: Source, end: Callable[[Stream], Awaitable[None]], caplog: pytest.LogCaptureFixture
) -> None:
    source.sent, source.closed = 0, False

    async def read() -> list[int]:
        async with TurnStream(source.stream(), ahead_max=2) as stream:
            first = await anext(stream)
            await settle()
            await end(stream)
            assert source.closed
            return [first, *[item async for item in stream]]

    result = (await asyncio.gather(asyncio.create_task(read()), return_exceptions=True))[0]
    assert source.closed
    assert result == [0] or isinstance(result, ValueError | asyncio.CancelledError)
    await settle()
    assert "never retrieved" not in caplog.text


async def test_closing_wakes_a_reader_that_waits() -> None:
    async with TurnStream(Source(1, silent=True).stream()) as stream:
        reader = asyncio.create_task(_all(stream))
        await settle()
        assert not reader.done()
        await stream.close()
        assert await reader == [0]


async def _all(stream: Stream) -> list[int]:
    return [item async for item in stream]


async def test_a_thread_puts_items_and_makes_its_calls_in_the_loop_until_the_turn_is_over() -> None:
    stream: TurnStream[Any] = TurnStream()
    ended = asyncio.Event()

    async def call() -> object:
        try:
            return asyncio.get_running_loop()
        finally:
            ended.set()

    def work() -> object:
        stream.put("from a thread")
        future = stream.run(call)
        assert future is not None
        return future.result()

    async with stream:
        stream.start(asyncio.to_thread(work))
        assert [item async for item in stream] == ["from a thread"]
        assert stream.result() is asyncio.get_running_loop()
        assert stream.run(call) is None, "it is in the loop's own thread"
    with pytest.raises(anyio.ClosedResourceError):
        await stream.send("too late")
    with pytest.raises(asyncio.CancelledError):
        stream.check_open()


# Of a program

WORDS = [f"word{number} " for number in range(40)]


class Blocking:
    def complete(self, request: Any) -> Any:
        raise NotImplementedError


class Burst:
    """A model that says all at once, and then breaks."""

    def __init__(self, *, fails: bool = False) -> None:
        self.fails = fails

    async def complete(self, request: Any) -> Any:
        raise NotImplementedError

    async def stream(self, request: Any) -> AsyncIterator[Any]:
        yield lm15.StreamStartEvent(model="burst/model")
        for text in ["[[ ## answer ## ]]\n", *WORDS]:
            yield lm15.StreamDeltaEvent(lm15.TextDelta(text=text, part_index=0))
        if self.fails:
            raise lm15.TransportError("connection closed mid-chunk")
        yield lm15.StreamEndEvent(finish_reason="stop")


def answering(engine: Burst) -> AsyncIterator[Event]:
    program = dspy.Predict("question -> answer")
    lm = dspy.LM("burst/model", engine=Blocking(), async_engine=engine, cache=False, num_retries=0)
    return run_turn(program, spec_of(program, name="p"), {"question": "?"}, (), lm, dspy.ChatAdapter())


async def test_what_arrived_together_is_one_increment() -> None:
    """No token waits for another one, but those that have come while the reader was busy go out at once."""
    events = [event async for event in answering(Burst()) if isinstance(event, FieldDelta)]
    assert "".join(event.text for event in events).split() == "".join(WORDS).split()
    assert 2 < len(events) < len(WORDS) / 2


async def test_what_arrived_before_a_failure_is_delivered_before_it() -> None:
    """`streamify` alone drops up to 16 chunks: its task group ends the reader when the program raises."""
    heard = []
    with pytest.raises(UpstreamCut):
        async for event in answering(Burst(fails=True)):
            heard.append(event)
            await asyncio.sleep(0.001)  # a reader that is behind, as in a busy app
    text = "".join(event.text for event in heard if isinstance(event, FieldDelta))
    assert text.split() == "".join(WORDS).split()
