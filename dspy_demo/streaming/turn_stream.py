"""Runs a program as one turn: what its models write arrives in a `TurnStream`, and leaves as events."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import anyio
import dspy
from dspy.utils.exceptions import AdapterParseError
from dspy.utils.usage_tracker import track_usage

from dspy_demo.errors import DemoError, ProgramLoadError, ReplyTooLong
from dspy_demo.events import Event, Message, TurnFinished
from dspy_demo.lm.chat_lm import observing
from dspy_demo.lm.faults import fault_from
from dspy_demo.programs.inputs import program_inputs
from dspy_demo.programs.outputs import json_ready, prediction_of
from dspy_demo.programs.spec import ProgramSpec
from dspy_demo.streaming.observer import TurnObserver
from dspy_demo.streaming.reading import ReplyReader, answering_predictor
from dspy_demo.streaming.threads import threads

#: DSPy's words for a predictor without a model, which every turn has.
NO_MODEL = "No LM is loaded"
LOST_SETTINGS = (
    "The program asks a model in a thread that does not know which turn it is for. Start such threads "
    "with dspy.Parallel or asyncio.to_thread, or run what they do by contextvars.copy_context().run."
)
#: How far a model may run ahead of a slow reader, in chunks.
AHEAD_MAX = 16


class TurnStream:
    """Everything that happens in one turn, in its order.

    Read in the event loop that made it, written from any thread.

    `dspy.streamify` would put a memory stream here and wake its reader for each chunk. This costs a chunk one
    ``append``: what has come while the reader was busy is taken at once.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._items: list[Any] = []
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self._ended = False
        self._calls: set[asyncio.Task[Any]] = set()

    # The program's side

    def put(self, item: Any) -> None:
        """Add `item` behind all that was added before. Never waits."""
        if threading.get_ident() == self._thread:
            self._items.append(item)
            self._changed.set()
        else:
            self._loop.call_soon_threadsafe(self.put, item)

    async def send(self, item: Any) -> None:
        """Add `item`, and wait while the reader is behind.

        Raises:
            anyio.ClosedResourceError: The turn is over. It ends a program that runs in a thread.
        """
        self.put(item)
        here = threading.get_ident() == self._thread
        while here and len(self._items) >= AHEAD_MAX and not self._ended:
            self._room.clear()
            await self._room.wait()
        if self._ended:
            raise anyio.ClosedResourceError

    def run(self, call: Callable[[], Coroutine[Any, Any, Any]]) -> Future[Any] | None:
        """Make a model call of another thread in the turn's event loop; None in that loop's own thread.

        So it streams from whatever thread it comes, without a change of threads for each chunk, and it ends
        with the turn.
        """
        if threading.get_ident() == self._thread:
            return None
        self.check_open()
        return asyncio.run_coroutine_threadsafe(self._owned(call), self._loop)

    async def _owned(self, call: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        self.check_open()
        task = asyncio.current_task()
        assert task is not None
        self._calls.add(task)
        try:
            return await call()
        finally:
            self._calls.discard(task)

    def check_open(self) -> None:
        """End a program whose turn is over, at its next call.

        Raises:
            asyncio.CancelledError: It is. No program takes that for a failed attempt that it could repeat.
        """
        if self._ended:
            raise asyncio.CancelledError

    # The reader's side

    async def take(self) -> list[Any]:
        """All that has come since the last call; empty at the end only."""
        while not self._items and not self._ended:
            self._changed.clear()
            await self._changed.wait()
        items, self._items = self._items, []
        self._room.set()
        return items

    def end(self) -> None:
        """Nothing more will come, or nobody will read it."""
        self._ended = True
        self._changed.set()
        self._room.set()

    async def close(self, program: asyncio.Task[Any]) -> None:
        """Cancel the program and the calls of its threads, and wait until their connections are closed."""
        self.end()
        tasks = {program, *self._calls}
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        for task in tasks:
            if not task.cancelled():
                task.exception()  # seen: a failure after the reader left is nobody's to handle


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

    The program runs in a task of its own. Whoever iterates this (`Pump`) owns that task: cancelled or closed,
    it closes the upstream. A program without ``aforward`` runs in a thread, which ends at its next call.

    A reply that was cut, at the token limit or by a provider's filter, often lacks output fields. That is not
    a failure: the turn finishes with what had come.

    Args:
        max_threads: How many programs without ``aforward`` may run at a time (DSPy's default of 8 makes a
            queue).
        reply_max_chars: All that the models may write in this turn, so that a reply without end takes no
            memory without end.

    Raises:
        DemoError: An input that cannot be used, or a failed model call.
    """
    arguments = program_inputs(spec, inputs, history)
    stream = TurnStream()
    reader = ReplyReader(spec.outputs, max_chars=reply_max_chars)
    observer = TurnObserver(stream, program, answering_predictor(program))
    settings = {"lm": lm, "adapter": adapter, "async_max_workers": max_threads}
    surroundings = partial(_settings_of_a_turn, stream, observer, settings)
    with surroundings():
        running = threads.of(program, observer, surroundings)
        call = asyncio.create_task(_call(program, spec, arguments, running), name="program")
    call.add_done_callback(lambda _: stream.end())
    try:
        while items := await stream.take():
            for event in reader.read(items):
                yield event
            if reader.full:
                raise ReplyTooLong.over(reply_max_chars)
        # A failure is raised here, after all that had arrived before it.
        outputs = json_ready(call.result())
        yield TurnFinished(outputs, observer.usage(), finish_reason=observer.finish_reason(outputs))
    except Exception as error:
        for event in reader.finish():
            yield event
        last = observer.last_call
        if last is not None and last.finish_reason != "stop" and _lacks_fields(error):
            yield TurnFinished(reader.arrived(), observer.usage(), finish_reason=last.finish_reason)
            return
        fault = _fault(error, streamed=last is not None and last.streamed)
        if fault is None or fault is error:
            raise
        raise fault from error
    finally:
        await stream.close(call)


@contextmanager
def _settings_of_a_turn(
    stream: TurnStream, observer: TurnObserver, settings: Mapping[str, Any]
) -> Iterator[None]:
    """What DSPy finds in the task that starts here, and in the threads that it starts."""
    with (
        dspy.context(
            callbacks=[*dspy.settings.callbacks, observer],
            send_stream=stream,  # each call gets its own, see `TurnObserver`
            disable_history=True,
            trace=[],  # DSPy's own is one list for all: it would keep the last 10,000 predictions
            track_usage=True,
            **settings,
        ),
        track_usage(),  # else DSPy tracks each module's by itself, and warns of what returns no prediction
        observing(observer),
    ):
        yield


async def _call(
    program: dspy.Module,
    spec: ProgramSpec,
    arguments: Mapping[str, Any],
    running: AbstractContextManager[None],
) -> dspy.Prediction:
    run = program.acall if hasattr(program, "aforward") else dspy.asyncify(program)
    with running:
        return prediction_of(await run(**arguments), spec)


def _fault(error: Exception, *, streamed: bool) -> DemoError | None:
    if isinstance(error, ValueError) and NO_MODEL in str(error):
        return ProgramLoadError(LOST_SETTINGS)
    return fault_from(error, streamed=streamed)


def _lacks_fields(error: BaseException | None) -> bool:
    """Whether a program failed because a reply lacked fields; `dspy.BestOfN` then gives back nothing."""
    while error is not None:
        if isinstance(error, AdapterParseError | ProgramLoadError):
            return True
        error = error.__cause__ or error.__context__
    return False
