"""The stream of a turn: items in order, a bounded lead, work that is closed before leaving is over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import dspy
import pytest
from dspy import lm15

from dspy_demo.adapters import adapter_for
from dspy_demo.errors import UpstreamCut
from dspy_demo.events import FieldDelta, LMChoice, LocalTarget, TurnRequest
from dspy_demo.lm.demo_engine import DemoEngine
from dspy_demo.programs.own import spec_of
from dspy_demo.streaming.turn import run_turn
from dspy_demo.streaming.turn_stream import AHEAD_MAX, TurnStream
from tests.services import settings_for


class Source:
    """Scripted work that remembers how far it got and how it ended."""

    def __init__(self, items: int, *, then: BaseException | None = None) -> None:
        self.items, self.then = items, then
        self.sent, self.closed = 0, False

    async def fill(self, stream: TurnStream[int]) -> None:
        try:
            for item in range(self.items):
                self.sent += 1
                await stream.send(item)
            if self.then is not None:
                raise self.then
        finally:
            await asyncio.sleep(0)  # closing takes a moment, as that of a socket does
            self.closed = True


async def settle() -> None:
    """Let every task run until it waits for another."""
    for _ in range(50):
        await asyncio.sleep(0)


async def test_items_come_in_order_a_slow_reader_holds_the_work_back_and_a_failure_is_last() -> None:
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
async def test_leaving_closes_the_work_first_and_drops_what_was_not_read(
    items: int, then: Exception | None, end: str, caplog: pytest.LogCaptureFixture
) -> None:
    source = Source(items, then=then)

    async def read() -> list[int]:
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


async def test_a_thread_puts_items_and_makes_its_calls_in_the_loop_until_the_turn_is_over() -> None:
    async def call() -> object:
        return asyncio.get_running_loop()

    def work() -> object:
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


WORDS = [f"word{number} " for number in range(40)]


class Burst:
    """A model that says all at once, and then breaks."""

    async def complete(self, request: Any) -> Any:
        raise NotImplementedError

    async def stream(self, request: Any) -> AsyncIterator[Any]:
        yield lm15.StreamStartEvent(model="burst/model")
        for text in ["[[ ## answer ## ]]\n", *WORDS]:
            yield lm15.StreamDeltaEvent(lm15.TextDelta(text=text, part_index=0))
        raise lm15.TransportError("connection closed mid-chunk")


async def test_what_arrived_together_is_one_increment_and_all_comes_before_a_failure(data_dir: Path) -> None:
    """`streamify` alone drops up to 16 chunks: its task group ends the reader when the program raises."""
    program, heard = dspy.Predict("question -> answer"), []
    lm = dspy.LM("burst/model", engine=DemoEngine(), async_engine=Burst(), cache=False, num_retries=0)
    request = TurnRequest(LocalTarget("p", LMChoice("burst/model")), {"question": "?"})
    more = {"lm": lm, "adapter": adapter_for("chat"), "settings": settings_for(data_dir)}
    with pytest.raises(UpstreamCut):
        async for event in run_turn(program, spec_of(program, name="p"), request, **more):
            heard.append(event)
            await asyncio.sleep(0.001)  # a reader that is behind, as in a busy app
    texts = [event.text for event in heard if isinstance(event, FieldDelta)]
    assert "".join(texts).split() == "".join(WORDS).split()
    assert 2 < len(texts) < len(WORDS) / 2
