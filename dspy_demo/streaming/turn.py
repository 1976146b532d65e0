"""Runs a program and yields the events of the turn."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any, Literal

import dspy
from dspy.utils.usage_tracker import track_usage

from dspy_demo.errors import ProgramLoadError, ReplyTooLong
from dspy_demo.events import Channel, Event, FieldDelta, Message, Status, TurnFinished
from dspy_demo.lm.chat_lm import observing
from dspy_demo.lm.faults import fault_from
from dspy_demo.programs.inputs import program_inputs
from dspy_demo.programs.outputs import json_ready
from dspy_demo.programs.spec import REASONING_FIELDS, ProgramSpec
from dspy_demo.streaming.feed import Feed
from dspy_demo.streaming.observer import CallStarted, TurnObserver
from dspy_demo.streaming.splitter import Splitter, splitter_for

TOOL_FIELDS = frozenset({"next_tool_name", "next_tool_args"})
#: The field name of a model's own thinking, beside the reasoning that the program asks for.
THINKING = "thinking"


async def run_turn(
    program: dspy.Module,
    spec: ProgramSpec,
    inputs: Mapping[str, Any],
    history: Sequence[Message],
    lm: dspy.LM,
    adapter: dspy.Adapter,
    *,
    max_threads: int = 64,
    reply_max_chars: int = 500_000,
) -> AsyncIterator[Event]:
    """Run `program` once: its deltas as they stream, then `TurnFinished`.

    The program runs in a task of its own, with a `Feed` where `dspy.streamify` would put a memory stream.
    Whoever iterates this (`Pump`) owns that task: cancelled or closed, it closes the upstream. A program
    without ``aforward`` runs in a thread, which ends at the next chunk.

    Args:
        max_threads: How many programs without ``aforward`` may run at a time (DSPy's default of 8 makes a
            queue).
        reply_max_chars: All that the models may write in this turn, so that a reply without end takes no
            memory without end.

    Raises:
        DemoError: An input that cannot be used, or a failed model call.
    """
    arguments = program_inputs(spec, inputs, history)
    feed = Feed()
    reader = ReplyReader(program, spec, max_chars=reply_max_chars)
    observer = TurnObserver(feed.put, reader.steps)
    with (
        dspy.context(
            lm=lm,
            adapter=adapter,
            callbacks=[*dspy.settings.callbacks, observer],
            send_stream=feed,
            disable_history=True,
            trace=[],  # DSPy's own (3.4.1) is one list for all: it would keep the last 10,000 predictions
            track_usage=True,
            async_max_workers=max_threads,
        ),
        track_usage() as tracker,
        observing(observer),
    ):
        call = asyncio.create_task(_call(program, spec, arguments), name="program")
    call.add_done_callback(lambda _: feed.end())
    try:
        while said := await feed.take():
            for event in reader.read(said):
                yield event
            if reader.full:
                raise ReplyTooLong.over(reply_max_chars)
        # A failure is raised here, after all that had arrived before it.
        prediction = call.result()
        for event in reader.finish():
            yield event
        yield TurnFinished(json_ready(prediction), observer.usage(tracker, streamed=reader.ever_streamed))
    except Exception as error:
        for event in reader.finish():
            yield event
        fault = fault_from(error, streamed=reader.streamed)
        if fault is None or fault is error:
            raise
        raise fault from error
    finally:
        feed.end()
        call.cancel()
        await asyncio.wait({call})
        if not call.cancelled():
            call.exception()  # seen: a failure after the reader left is nobody's to handle


async def _call(program: dspy.Module, spec: ProgramSpec, arguments: Mapping[str, Any]) -> dspy.Prediction:
    run = program.acall if hasattr(program, "aforward") else dspy.asyncify(program)
    prediction = await run(**arguments)
    if not isinstance(prediction, dspy.Prediction):
        kind = type(prediction).__name__
        raise ProgramLoadError(f"The program “{spec.title}” returned a {kind}, no dspy.Prediction.")
    return prediction


class ReplyReader:
    """Turns what a program streams into events, keeping its predictors apart."""

    def __init__(self, program: dspy.Module, spec: ProgramSpec, *, max_chars: int = 500_000) -> None:
        predictors = program.named_predictors()
        self.steps = {id(predictor): name.removesuffix(".predict") for name, predictor in predictors}
        self._answering = id(predictors[-1][1]) if predictors else None
        self._outputs = frozenset(spec.outputs)
        self._calls: dict[int, _Reply] = {}
        self._counts: dict[int, int] = {}
        self.streamed = False  # in the reply that is running
        self.ever_streamed = False
        self._room = max_chars  # for the whole turn, also for what no splitter finds a field in
        self.full = False

    def read(self, values: Iterable[Any]) -> Iterator[Event]:
        """The events of chunks and notes that came together; neighbouring chunks make one increment."""
        pieces = (piece for value in values for piece in _pieces(value))
        for (predictor_id, kind), group in itertools.groupby(pieces, key=itemgetter(0, 1)):
            if kind == "note":
                for _, _, note in group:
                    yield from self._note(note)
                continue
            self.ever_streamed = True
            text = "".join(piece[2] for piece in group)
            if not text:  # litellm (1.106) begins with an empty delta, also before garbage
                continue
            self.streamed = True
            self.full = self.full or len(text) > self._room
            text = text[: self._room]
            self._room -= len(text)
            call = self._calls.get(predictor_id)
            if call is None or kind == "call":
                continue
            if kind == "thinking":
                yield FieldDelta(THINKING, "reasoning", text, call.step)
            else:
                yield from call.feed(text)

    def _note(self, note: CallStarted | Status) -> Iterator[Event]:
        if isinstance(note, Status):
            yield note
        else:
            yield from self._start(note)

    def _start(self, note: CallStarted) -> Iterator[Event]:
        """A new reply begins: what the same predictor's last one held back goes out first."""
        self.streamed = False
        identity = note.predictor_id
        if identity in self._calls:
            yield from self._calls[identity].finish()
        count = self._counts[identity] = self._counts.get(identity, 0) + 1
        name = self.steps.get(identity, "step")
        step = name if count == 1 else f"{name}#{count}"
        splitter = splitter_for(note.adapter, note.fields) if note.adapter else None
        self._calls[identity] = _Reply(
            step, splitter, lambda field: self._channel(identity, field, note.fields)
        )

    def _channel(self, predictor_id: int, field: str, fields: tuple[str, ...]) -> Channel:
        """Where a field is shown: only what the last predictor answers is the answer."""
        if field in TOOL_FIELDS and TOOL_FIELDS.issubset(fields):
            return "tool"
        if field in REASONING_FIELDS or predictor_id != self._answering:
            return "reasoning"
        return "answer" if not self._outputs or field in self._outputs else "reasoning"

    def finish(self) -> Iterator[Event]:
        """What the splitters still hold back, at the end of the turn."""
        for call in self._calls.values():
            yield from call.finish()
        self._calls.clear()


class _Reply:
    """One reply of one predictor. With an adapter of unknown format the reply is shown as it is."""

    def __init__(self, step: str, splitter: Splitter | None, channel_of: Callable[[str], Channel]) -> None:
        self.step = step
        self._splitter = splitter
        self._channel_of = channel_of

    def feed(self, text: str) -> Iterator[Event]:
        if self._splitter is None:
            yield FieldDelta("reply", "reasoning", text, self.step)
            return
        for piece in self._splitter.feed(text):
            yield FieldDelta(piece.field, self._channel_of(piece.field), piece.text, self.step)

    def finish(self) -> Iterator[Event]:
        splitter, self._splitter = self._splitter, None
        for piece in splitter.finish() if splitter else ():
            yield FieldDelta(piece.field, self._channel_of(piece.field), piece.text, self.step)


def _pieces(value: Any) -> Iterator[tuple[int, Literal["note", "thinking", "call", "content"], Any]]:
    """Whose, what and the text of a chunk: an `EngineChunk` (a dict) or a litellm ``ModelResponseStream``."""
    if isinstance(value, CallStarted | Status):
        yield 0, "note", value
        return
    choices = getattr(value, "choices", None)
    if not choices:
        return
    delta = choices[0].delta
    delta = delta if hasattr(delta, "get") else vars(delta)
    predictor_id = getattr(value, "predict_id", None) or 0
    if thinking := delta.get("reasoning_content"):
        yield predictor_id, "thinking", thinking
    if calls := delta.get("tool_calls"):
        yield predictor_id, "call", str(calls)
    # Empty text too: that a chunk was out rules a retry out.
    yield predictor_id, "content", delta.get("content") or ""
