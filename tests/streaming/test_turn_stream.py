"""From a program to events, where timing decides: nothing that arrived is lost, whatever follows it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import dspy
import pytest
from dspy import lm15

from dspy_demo.errors import UpstreamCut
from dspy_demo.events import Event, FieldDelta
from dspy_demo.programs.inspecting import spec_of
from dspy_demo.streaming.turn import run_turn

WORDS = [f"word{number} " for number in range(40)]


class Burst:
    """A model that says all at once, and then breaks."""

    def complete(self, request: Any) -> Any:
        raise NotImplementedError

    def stream(self, request: Any) -> Any:
        raise NotImplementedError


class AsyncBurst:
    def __init__(self, *, fails: bool) -> None:
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


def answering(engine: AsyncBurst) -> AsyncIterator[Event]:
    program = dspy.Predict("question -> answer")
    lm = dspy.LM("burst/model", engine=Burst(), async_engine=engine, cache=False, num_retries=0)
    return run_turn(program, spec_of(program, name="p"), {"question": "?"}, (), lm, dspy.ChatAdapter())


async def test_what_arrived_together_is_one_increment() -> None:
    """No token waits for another one, but those that have come while the reader was busy go out at once."""
    events = [event async for event in answering(AsyncBurst(fails=False)) if isinstance(event, FieldDelta)]
    assert "".join(event.text for event in events).split() == "".join(WORDS).split()
    assert len(events) < len(WORDS) / 2
    assert len(events) > 2, "the model ran ahead of its reader"


async def test_what_arrived_before_a_failure_is_delivered_before_it() -> None:
    """`streamify` alone drops up to 16 chunks: its task group ends the reader when the program raises."""
    heard = []
    with pytest.raises(UpstreamCut):
        async for event in answering(AsyncBurst(fails=True)):
            heard.append(event)
            await asyncio.sleep(0.001)  # a reader that is behind, as in a busy app
    text = "".join(event.text for event in heard if isinstance(event, FieldDelta))
    assert text.split() == "".join(WORDS).split()
