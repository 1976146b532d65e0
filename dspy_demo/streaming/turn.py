"""Runs a program and yields the events of the turn."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import dspy
from dspy.utils.usage_tracker import track_usage

from dspy_demo.errors import ProgramLoadError
from dspy_demo.events import Channel, Event, FieldDelta, Message, Status, TurnFinished
from dspy_demo.lm.chat_lm import call_observer
from dspy_demo.lm.faults import fault_from
from dspy_demo.programs.inputs import program_inputs
from dspy_demo.programs.spec import REASONING_FIELDS, ProgramSpec
from dspy_demo.streaming.observer import CallStarted, TurnObserver
from dspy_demo.streaming.outputs import json_ready
from dspy_demo.streaming.splitter import Splitter, splitter_for

log = logging.getLogger(__name__)

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
) -> AsyncIterator[Event]:
    """Run `program` once: its deltas as they stream, then `TurnFinished`.

    Iterate it in one task that owns it (`Pump`): cancelling that task closes the upstream. A program without
    ``aforward`` runs in a thread, which ends at the next chunk.

    Args:
        max_threads: How many programs without ``aforward`` may run at a time (DSPy's default of 8 makes a
            queue).

    Raises:
        DemoError: An input that cannot be used, or a failed model call.
    """
    arguments = program_inputs(spec, inputs, history)
    reader = ReplyReader(program, spec)
    observer = TurnObserver(reader.steps)
    prediction: dspy.Prediction | None = None
    token = call_observer.set(observer)
    try:
        with (
            dspy.context(
                lm=lm,
                adapter=adapter,
                callbacks=[*dspy.settings.callbacks, observer],
                disable_history=True,
                track_usage=True,
                async_max_workers=max_threads,
            ),
            track_usage() as tracker,
        ):
            call = _Call(program, spec)
            run = dspy.streamify(call, is_async_program=True)
            # Read to its end and closed here, in this task: left to the garbage collector, its task
            # group would be torn down by another one.
            async with aclosing(run(**arguments)) as stream:
                async for value in stream:
                    for note in observer.due():
                        for event in reader.read(note):
                            yield event
                    if isinstance(value, dspy.Prediction):
                        prediction = value
                    else:
                        for event in reader.read(value):
                            yield event
        if call.failure is not None:
            raise call.failure
        for event in reader.finish():
            yield event
        assert prediction is not None
        yield TurnFinished(json_ready(prediction), observer.usage(tracker, streamed=reader.ever_streamed))
    except Exception as error:
        for event in reader.finish():
            yield event
        fault = fault_from(error, streamed=reader.streamed)
        if fault is None:
            raise
        raise fault from error
    finally:
        try:
            call_observer.reset(token)
        except ValueError:
            log.debug("a turn was closed in another context than it ran in")


class _Call:
    """The one call of a program, as `streamify` makes it.

    Attributes:
        failure: What it raised. Raised through `streamify` (3.4.1), a failure overtakes the last 16
            chunks, which are lost, and loses its cause; so it ends like a success and is raised after them.
    """

    failure: Exception | None = None

    def __init__(self, program: dspy.Module, spec: ProgramSpec) -> None:
        self._call = program.acall if hasattr(program, "aforward") else dspy.asyncify(program)
        self._title = spec.title

    async def acall(self, **arguments: Any) -> dspy.Prediction:
        """Run the program; always a `Prediction`, since `streamify` waits for ever for one."""
        try:
            prediction = await self._call(**arguments)
            if not isinstance(prediction, dspy.Prediction):
                kind = type(prediction).__name__
                raise ProgramLoadError(f"The program “{self._title}” returned a {kind}, no dspy.Prediction.")
        except Exception as failure:
            self.failure = failure
            return dspy.Prediction()
        return prediction


class ReplyReader:
    """Turns the values of a streamified program into events, keeping its predictors apart."""

    def __init__(self, program: dspy.Module, spec: ProgramSpec) -> None:
        predictors = program.named_predictors()
        self.steps = {id(predictor): name.removesuffix(".predict") for name, predictor in predictors}
        self._answering = id(predictors[-1][1]) if predictors else None
        self._outputs = frozenset(spec.outputs)
        self._calls: dict[int, _Reply] = {}
        self._counts: dict[int, int] = {}
        self.streamed = False  # in the reply that is running
        self.ever_streamed = False

    def read(self, value: Any) -> Iterator[Event]:
        """The events of a chunk, or of a note that came between the chunks."""
        if isinstance(value, Status):
            yield value
            return
        if isinstance(value, CallStarted):
            yield from self._start(value)
            return
        delta = _delta_of(value)
        if delta is None:
            return
        self.streamed = self.ever_streamed = True
        call = self._calls.get(getattr(value, "predict_id", None) or 0)
        if call is None:
            return
        thinking = delta.get("reasoning_content")
        if thinking:
            yield FieldDelta(THINKING, "reasoning", thinking, call.step)
        content = delta.get("content")
        if content:
            yield from call.feed(content)

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


def _delta_of(chunk: Any) -> Any:
    """The OpenAI-shaped delta of a chunk: an `EngineChunk` (a dict) or a litellm ``ModelResponseStream``."""
    choices = getattr(chunk, "choices", None)
    if not choices:
        return None
    delta = choices[0].delta
    return delta if hasattr(delta, "get") else vars(delta)
