"""ChatService: runs a turn on the backend it names, within limits, to exactly one end."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import time
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self

from dspy_demo.backends.base import Backend
from dspy_demo.errors import (
    Busy,
    DemoError,
    EmptyReply,
    InputTooLong,
    NotFound,
    Stopped,
    UpstreamTimeout,
    in_seconds,
)
from dspy_demo.events import (
    Event,
    FieldDelta,
    LocalTarget,
    TurnFailed,
    TurnFinished,
    TurnRequest,
    TurnStarted,
    Usage,
    Visitor,
    failed_from,
)
from dspy_demo.guests.allowance import Allowance
from dspy_demo.guests.limits import GuestLimits, GuestTurn
from dspy_demo.logs import current_turn_id, log_failure
from dspy_demo.metrics import Metrics, Outcome, TurnEnd
from dspy_demo.programs.images import check_images, image_chars, image_fields
from dspy_demo.programs.inputs import check_inputs
from dspy_demo.programs.registry import ProgramRegistry
from dspy_demo.settings import Settings
from dspy_demo.streaming.pump import Pump
from dspy_demo.tracing.base import NoTracer, Tracer
from dspy_demo.tracing.record import TurnRecord, current_record

log = logging.getLogger(__name__)

CLOSED = "The server was stopped before the answer was finished. What arrived is kept."
CLOSING = "The server is shutting down and takes no new questions. Try again in a moment."
#: When to come back: a start takes about this long.
RESTART_S = 10.0


class ChatService:
    """The one door to the backends, for the page, the REST routes and the OpenAI routes.

    Args:
        local: Runs programs of `programs` in this process.
        served: Asks a model server, or None where there is none.
        allowance: What guests may use; None where everybody may use everything, as behind a model server.
        tracer: Gets the record of each turn at its end. It belongs to who made it, who closes it too.
        limits: How much guests may use; None where everybody may use as much as the owner.
        observer: Counts the turns.
    """

    def __init__(
        self,
        settings: Settings,
        programs: ProgramRegistry,
        local: Backend,
        served: Backend | None = None,
        *,
        tracer: Tracer | None = None,
        observer: Metrics | None = None,
        allowance: Allowance | None = None,
        limits: GuestLimits | None = None,
    ) -> None:
        self.settings = settings
        self.programs = programs
        self._local = local
        self._served = served
        self.tracer: Tracer = tracer or NoTracer()
        self.observer = observer or Metrics()
        self.allowance = allowance
        self.limits = limits
        self.running: set[Turn] = set()
        self.waiting: set[Turn] = set()
        self.closing = False
        self._turn_ended = asyncio.Event()

    def input_max_chars(self, visitor: Visitor) -> int:
        """The longest input of a turn, all fields and the chat so far together, in characters."""
        return self.limits.input_max_chars(visitor) if self.limits else self.settings.input_max_chars

    def check(self, request: TurnRequest) -> None:
        """Refuse a request that cannot run, before any model is called.

        Raises:
            Forbidden: It is not for guests.
            NotFound: No such program.
            InvalidInput: A required input is missing, or one is unknown or of the wrong type.
            InputTooLong: The inputs and the history exceed the limit.
            Busy: Too many turns are running, or a limit of guests is reached.
            Stopped: The app shuts down.
        """
        try:
            self._check(request)
        except Exception as error:
            refusal = DemoError.of(error)
            refusal.error_id = request.turn_id
            self.tell(TurnEnd.of(request, "refused", code=refusal.code, limit=refusal.limit), refusal)
            raise refusal from refusal.__cause__

    def check_open(self) -> None:
        """Refuse new turns while the app shuts down.

        Raises:
            Stopped: It does.
        """
        if self.closing:
            raise Stopped(CLOSING, retry_after_s=RESTART_S)

    def _check(self, request: TurnRequest) -> None:
        self.check_open()
        if self.allowance is not None:
            self.allowance.check(request)
        size = sum(len(str(value)) for value in request.inputs.values()) - self._image_chars(request)
        size += sum(len(message.text) for message in request.history)
        most = self.input_max_chars(request.visitor)
        if size > most:
            raise InputTooLong(
                f"The input has {size:,} characters with the chat so far; the limit is "
                f"{most:,}. Shorten it or start a new chat."
            )
        if isinstance(request.target, LocalTarget):
            check_inputs(self.programs.get(request.target.program), request.inputs)
        if self.limits:
            self.limits.check(request)
        self.check_room()

    def _image_chars(self, request: TurnRequest) -> int:
        """How much of a question is pictures. Which inputs of a served version are some, it alone knows."""
        guest = request.visitor.role == "guest"
        if not isinstance(request.target, LocalTarget):
            return 0 if guest else image_chars(request.inputs, request.inputs)
        spec = self.programs.get(request.target.program)
        check_images(spec, request.inputs, guest=guest)
        return image_chars(request.inputs, image_fields(spec))

    def check_room(self) -> None:
        """Refuse one turn too many.

        Raises:
            Busy: Too many turns are running.
        """
        if len(self.running) >= self.settings.max_turns:
            raise Busy()

    def turn(self, request: TurnRequest) -> Turn:
        """A turn that is ready to run; see `Turn`."""
        return Turn(self, request)

    async def answer(self, request: TurnRequest) -> TurnFinished | TurnFailed:
        """Run a turn to its end and give only that."""
        async with self.turn(request) as turn:
            async for event in turn:
                if isinstance(event, TurnFinished | TurnFailed):
                    return event
        return failed_from(Stopped())

    def backend(self, request: TurnRequest) -> Backend:
        """The backend of a request's target.

        Raises:
            NotFound: The target is a served one and no served backend is set up.
        """
        if isinstance(request.target, LocalTarget):
            return self._local
        if self._served is None:
            raise NotFound("No served version is set up here. Log a version and serve it first.")
        return self._served

    def tell(self, end: TurnEnd, failure: DemoError | None = None) -> None:
        """The end of a turn, to the log and the observer."""
        if failure is not None:
            refused = end.outcome == "refused"
            log_failure(log, f"turn {end.outcome}", failure, refused=refused, **end.fields())
        else:
            log.info("turn %s", end.outcome, extra=end.fields())
        self.observer.turn_ended(end)

    def leave(self, turn: Turn) -> None:
        """A turn runs no more, nor waits."""
        self.running.discard(turn)
        self.waiting.discard(turn)
        self._turn_ended.set()

    async def drain(self, seconds: float) -> None:
        """Take no new turns, and give the running ones `seconds` to finish; the rest ends with `Stopped`.

        When it returns everything upstream is closed, and who reads a turn has its last event before them.
        """
        self.closing = True
        await asyncio.gather(*(turn.cut_short(Stopped(CLOSING)) for turn in list(self.waiting)))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.running:
                    self._turn_ended.clear()
                    await self._turn_ended.wait()
        await asyncio.gather(*(turn.cut_short(Stopped(CLOSED)) for turn in list(self.running)))

    async def aclose(self) -> None:
        """End every running turn, then the backends."""
        self.closing = True
        for turn in self.waiting | self.running:
            await turn.stop()
        await self._local.aclose()
        if self._served is not None:
            await self._served.aclose()
        if self.limits is not None:
            await self.limits.aclose()


class Turn:
    """One running turn.

        async with service.turn(request) as turn:
            async for event in turn: ...

    No exception but `asyncio.CancelledError` comes out of it: a failure is its last event. After
    `stop`, and on leaving the block, everything upstream is closed and no terminal event follows.

    A guest's turn may have to wait in line: then `Status` events with `events.QUEUE_KEY` come before
    `TurnStarted`, and time counts from the end of the wait.

    Attributes:
        trace_id: The trace of this turn, from its start on; None where there is none. A request that was
            refused has none, and a served turn has that of its server, unless the server was lost.
    """

    def __init__(self, service: ChatService, request: TurnRequest) -> None:
        self.request = request
        self.stopped = False
        self.trace_id: str | None = None
        self._service = service
        self._seat: GuestTurn | None = None
        self._record: TurnRecord | None = None
        self._pump: Pump[Event] | None = None
        self._watch: asyncio.Task[None] | None = None
        self._cut_short: DemoError | None = None
        self._end: TurnFinished | None = None
        self._failure: DemoError | None = None
        self._first_delta_s: float | None = None
        self._accepted = self._told = False
        self._started_at = self._last_event_at = time.monotonic()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close()

    async def stop(self) -> None:
        """End the turn now, from any task: the upstream is closed when this returns."""
        self.stopped = True
        await self._close()

    async def cut_short(self, reason: DemoError) -> None:
        """End the turn now, from any task, with `reason` as its last event."""
        self._cut_short = reason
        if self._pump is not None:
            await self._pump.stop()
        elif self._seat is not None:  # it waits in line
            self._seat.leave()

    async def _close(self) -> None:
        self._service.leave(self)
        if self._watch is not None:
            self._watch.cancel()
        try:
            if self._pump is not None:
                await self._pump.stop()
        finally:
            self._tell_end()
            if self._seat is not None:
                self._seat.leave()
            if self._record is not None:
                self._service.tracer.finish(self._record)

    async def __aiter__(self) -> AsyncIterator[Event]:
        started = False
        try:
            self._check()
            async for status in self._admitted():
                yield status
            if self.stopped:
                return
            self._service.check_open()
            self._service.check_room()
            self._begin()
            backend = self._service.backend(self.request)
            pump = self._pump = Pump(backend.stream(self.request))
            self._watch = asyncio.create_task(self._end_when_late(pump), name="turn-watch")
            record, turn_id = current_record.set(self._record), current_turn_id.set(self.request.turn_id)
            async with pump:
                # the pump's task has them now
                current_record.reset(record)
                current_turn_id.reset(turn_id)
                async for event in pump:
                    self._last_event_at = time.monotonic()
                    if isinstance(event, TurnStarted):
                        started = True
                        self.trace_id = event.trace_id or self.trace_id
                        event = dataclasses.replace(event, trace_id=self.trace_id)
                    if self._seat is not None:
                        self._seat.hear(event)
                    if self._first_delta_s is None and isinstance(event, FieldDelta):
                        self._first_delta_s = self._last_event_at - self._started_at
                    if isinstance(event, TurnFinished):
                        event = self._finished(event)
                    if self._record is not None:
                        self._record.hear(event)
                    if isinstance(event, TurnFinished):
                        self._tell_end()
                        yield event
                        return
                    yield event
            if self.stopped:
                return
            raise self._cut_short or EmptyReply()
        except Exception as error:
            failure = self._failed(error)
        finally:
            await self._close()
        if self.stopped:
            return
        if not started:
            yield TurnStarted("local" if isinstance(self.request.target, LocalTarget) else "served", "")
        yield failed_from(failure)

    def _check(self) -> None:
        self._told = True  # the service tells of a refusal itself
        self._service.check(self.request)
        self._told = False

    async def _admitted(self) -> AsyncIterator[Event]:
        """Wait for a place where the visitor needs one; gives what there is to say meanwhile."""
        if self._service.limits is not None:
            self._seat = self._service.limits.enter(self.request)
        if self._seat is None:
            return
        self._service.waiting.add(self)
        while (status := await self._seat.next_status()) is not None:
            yield status
        self._service.waiting.discard(self)
        if self.stopped or self._cut_short is not None:
            return
        self.request = self._seat.begin()

    def _begin(self) -> None:
        self._accepted = True
        self._started_at = self._last_event_at = time.monotonic()
        self._service.running.add(self)
        self._service.observer.turn_started(self.request)
        self._record = self._service.tracer.begin(self.request)
        self.trace_id = self._record.trace_id if self._record is not None else None

    def _finished(self, event: TurnFinished) -> TurnFinished:
        self.trace_id = event.trace_id or self.trace_id
        self._end = dataclasses.replace(
            event,
            first_delta_s=self._first_delta_s,
            elapsed_s=self._last_event_at - self._started_at,
            trace_id=self.trace_id,
        )
        return self._end

    def _failed(self, error: Exception) -> DemoError:
        """The failure, under the one id of this turn."""
        failure = DemoError.of(error)
        if self._seat is not None and not self.stopped:
            self._seat.failed(failure)
        failure.error_id = self.request.turn_id
        if self.stopped:
            return failure
        self._failure = failure
        if self._record is not None:
            self._record.hear(failed_from(failure))
            if not failure.from_server:
                self._record.traced_elsewhere = False
                self.trace_id = self._record.trace_id
        return failure

    def _tell_end(self) -> None:
        """Once, at whatever comes first: the last event, a stop, or leaving the block."""
        finished, failure = self._end, self._failure
        if self._told or (not self._accepted and failure is None):
            return
        self._told = True
        unanswered: Outcome = "failed" if self._accepted else "refused"
        end = TurnEnd.of(
            self.request,
            "finished" if finished else unanswered if failure else "stopped",
            code=failure.code if failure else "",
            limit=failure.limit if failure else "",
            usage=finished.usage if finished else self._record.usage if self._record else Usage(),
            first_delta_s=self._first_delta_s,
            elapsed_s=finished.elapsed_s if finished else time.monotonic() - self._started_at,
        )
        self._service.tell(end, failure)

    async def _end_when_late(self, pump: Pump[Event]) -> None:
        """Stop the pump when the turn, or the silence within it, lasts longer than allowed."""
        idle_s, total_s = self._service.settings.idle_timeout_s, self._service.settings.total_timeout_s
        if self._seat is not None:
            total_s = min(total_s, self._seat.turn_timeout_s)
        while True:
            now = time.monotonic()
            idle_left_s = self._last_event_at + idle_s - now
            total_left_s = self._started_at + total_s - now
            if idle_left_s <= 0:
                self._cut_short = UpstreamTimeout(
                    f"The language model was silent for {in_seconds(idle_s)}, so the turn was ended. "
                    "Try again.",
                    limit="idle_timeout_s",
                )
                break
            if total_left_s <= 0:
                self._cut_short = UpstreamTimeout(
                    f"The turn took longer than {in_seconds(total_s)}, so it was ended. "
                    "What arrived is kept.",
                    limit="total_timeout_s",
                )
                break
            await asyncio.sleep(min(idle_left_s, total_left_s))
        await pump.stop()
