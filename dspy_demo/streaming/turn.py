"""Runs a program as one turn: what its models write arrives in a `TurnStream`, and leaves as events."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import dspy
from dspy.utils.exceptions import AdapterParseError

from dspy_demo.dspy_bridge import counting_tokens
from dspy_demo.errors import ProgramLoadError, ReplyTooLong
from dspy_demo.events import Event, TurnFinished, TurnRequest
from dspy_demo.lm.chat_lm import call_observer
from dspy_demo.lm.faults import fault_from
from dspy_demo.programs.chat_program import json_ready
from dspy_demo.programs.inputs import prediction_of, program_inputs
from dspy_demo.programs.spec import ProgramSpec
from dspy_demo.settings import Settings
from dspy_demo.streaming.observer import OwnThreads, TurnObserver
from dspy_demo.streaming.reader import ReplyReader, answering_predictor
from dspy_demo.streaming.turn_stream import TurnStream

LOST_SETTINGS = """The program asks a model in a thread that does not know which turn it is for. Start such \
threads with dspy.Parallel or asyncio.to_thread."""


async def run_turn(
    program: dspy.Module,
    spec: ProgramSpec,
    request: TurnRequest,
    *,
    lm: dspy.LM,
    adapter: dspy.Adapter,
    settings: Settings,
) -> AsyncGenerator[Event, None]:
    """Run `program` once: its deltas as they stream, then `TurnFinished`.

    A reply that was cut, at the token limit or by a provider's filter, is no failure: the turn finishes with
    the fields that had come.
    """
    arguments = program_inputs(spec, request.inputs, request.history)
    reader = ReplyReader(spec.outputs, max_chars=settings.reply_max_chars)
    async with TurnStream[Any]() as stream:
        observer = TurnObserver(stream, program, answering_predictor(program))
        given = {"lm": lm, "adapter": adapter, "async_max_workers": settings.max_turns}
        surroundings = partial(_observed, observer, send_stream=stream, **given)
        with surroundings():
            stream.start(_called(program, spec, arguments, OwnThreads(observer, surroundings)))
        try:
            while items := await stream.take():
                for event in reader.read(items):
                    yield event
                if reader.full:
                    raise ReplyTooLong.over(settings.reply_max_chars)
            # A failure is raised here, after all that had arrived before it.
            outputs = json_ready(stream.result())
            yield TurnFinished(outputs, observer.usage(), finish_reason=observer.finish_reason(outputs))
        except Exception as error:
            for event in reader.finish():
                yield event
            yield _cut_short(error, reader, observer)


async def _called(
    program: dspy.Module, spec: ProgramSpec, arguments: dict[str, Any], threads: OwnThreads
) -> dspy.Prediction:
    run = program.acall if hasattr(program, "aforward") else dspy.asyncify(program)
    predictors = program.predictors()
    for predictor in predictors:
        predictor.callbacks.append(threads)
    try:
        return prediction_of(await run(**arguments), spec)
    finally:
        for predictor in predictors:
            predictor.callbacks.remove(threads)


def _cut_short(error: Exception, reader: ReplyReader, observer: TurnObserver) -> TurnFinished:
    """The end of a turn whose last reply was cut, with what had come; any other error is raised."""
    last = observer.ended[-1] if observer.ended else None
    if last is not None and last.finish_reason != "stop" and _lacks_fields(error):
        return TurnFinished(reader.arrived(), observer.usage(), finish_reason=last.finish_reason)
    if observer.lost_thread and isinstance(error, ValueError):
        raise ProgramLoadError(LOST_SETTINGS) from error
    fault = fault_from(error, streamed=last is not None and last.streamed)
    if fault is None or fault is error:
        raise error
    raise fault from error


def _lacks_fields(error: BaseException | None) -> bool:
    """Whether a program failed because a reply lacked fields; `dspy.BestOfN` then gives back nothing."""
    while error is not None:
        if isinstance(error, AdapterParseError | ProgramLoadError):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextmanager
def _observed(observer: TurnObserver, **settings: Any) -> Iterator[None]:
    """What DSPy finds in the task of a turn, and in the threads that it starts."""
    settings["callbacks"] = [*dspy.settings.callbacks, observer]
    settings["trace"] = []  # DSPy's own is one list for all: it would keep the last 10,000 predictions
    token = call_observer.set(observer)
    try:
        # Without a counter here DSPy counts by module, and warns of one that returns no prediction.
        with dspy.context(disable_history=True, track_usage=True, **settings), counting_tokens():
            yield
    finally:
        call_observer.reset(token)
