"""ChatService: runs a turn on the backend it names, within limits, to exactly one end."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing
from typing import Any, Self, assert_never

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
    Status,
    TurnFailed,
    TurnFinished,
    TurnRequest,
    TurnStarted,
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
from dspy_demo.streaming.turn_stream import TurnStream
from dspy_demo.tracing.base import NoTracer, Tracer
from dspy_demo.tracing.record import TurnRecord, current_record

log = logging.getLogger(__name__)

SILENT = "The language model was silent for {}, so the turn was ended. Try again."
TOO_SLOW = "The turn took longer than {}, so it was ended. What arrived is kept."
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
            self.refuse(request)
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

    def refuse(self, request: TurnRequest) -> None:
        """`check`, for who tells of the refusal."""
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
        """A turn has ended, and everything upstream is closed."""
        self.running.discard(turn)
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
    """One running turn: it is admitted, runs, and is reported.

        async with service.turn(request) as turn:
            async for event in turn: ...

    No exception but `asyncio.CancelledError` comes out of it: a failure is its last event. After
    `stop`, and on leaving the block, everything upstream is closed and no terminal event follows.

    A guest's turn may have to wait in the queue: then `Status` events with `events.QUEUE_KEY` come before
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
        self._open, self._closing = AsyncExitStack(), asyncio.Lock()
        self._guest: GuestTurn | None = None
        self._record: TurnRecord | None = None
        self._stream: TurnStream[Event] | None = None
        self._cut_short: DemoError | None = None
        self._started_s: float | None = None  # None until it is admitted
        self._outcome: TurnFinished | DemoError | None = None  # None while it runs, and where it was stopped
        self._first_delta_s: float | None = None
        self._reported = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._close()

    async def stop(self) -> None:
        """End the turn now, from any task: the upstream is closed when this returns."""
        self.stopped = True
        await self._close()

    async def cut_short(self, reason: DemoError) -> None:
        """End the turn now, from any task, with `reason` as its last event."""
        self._cut_short = reason
        if self._stream is not None:
            await self._stream.close()
        elif self._guest is not None:  # it waits in the queue
            self._guest.leave()

    async def _close(self) -> None:
        """Give back all that the turn holds; the upstream first."""
        async with self._closing:
            await self._open.aclose()

    async def __aiter__(self) -> AsyncIterator[Event]:
        started = False
        try:
            async for event in self._admit():
                yield event
            async for event in self._run():
                started = started or isinstance(event, TurnStarted)
                yield event
        except Exception as error:
            self._fail(error)
        finally:
            await self._close()
        if self.stopped or not isinstance(self._outcome, DemoError):
            return
        if not started:
            yield TurnStarted("local" if isinstance(self.request.target, LocalTarget) else "served", "")
        yield failed_from(self._outcome)

    async def _admit(self) -> AsyncIterator[Event]:
        """Check the request, and wait for a place where the visitor needs one; tells the place meanwhile."""
        service = self._service
        self._open.callback(self._report)
        service.refuse(self.request)
        if service.limits is not None:
            self._guest = service.limits.enter(self.request)
        if self._guest is not None:
            self._open.callback(self._guest.leave)
            self._open.callback(service.waiting.discard, self)
            service.waiting.add(self)
            while (status := await self._guest.next_status()) is not None:
                yield status
            service.waiting.discard(self)
        if self.stopped:
            return
        service.check_open()
        service.check_room()
        if self._guest is not None:
            self.request = self._guest.begin()

    async def _run(self) -> AsyncIterator[Event]:
        """The backend's events, with what only the turn knows."""
        if self.stopped:
            return
        self._begin()
        stream = self._stream = TurnStream()
        self._open.push_async_callback(stream.close)
        stream.start(self._fill(stream))
        async for event in stream:
            match event:
                case TurnStarted():
                    self.trace_id = event.trace_id or self.trace_id
                    event = dataclasses.replace(event, trace_id=self.trace_id)
                case FieldDelta():
                    if self._first_delta_s is None:
                        self._first_delta_s = self._elapsed_s()
                case TurnFinished():
                    event = self._outcome = self._finished(event)
                    self._hear(event)
                    self._report()
                    yield event
                    return
                case Status() | TurnFailed():
                    pass
                case _:
                    assert_never(event)
            self._hear(event)
            yield event
        if not self.stopped:
            raise self._cut_short or EmptyReply()

    def _begin(self) -> None:
        service = self._service
        self._started_s = time.monotonic()
        service.running.add(self)
        self._open.callback(service.leave, self)
        service.observer.turn_started(self.request)
        self._record = service.tracer.begin(self.request)
        if self._record is not None:
            self._open.callback(service.tracer.finish, self._record)
            self.trace_id = self._record.trace_id

    def _hear(self, event: Event) -> None:
        """Tell an event to whoever counts it."""
        if self._guest is not None:
            self._guest.hear(event)
        if self._record is not None:
            self._record.hear(event)

    async def _fill(self, stream: TurnStream[Event]) -> None:
        """Run the backend within the limits of time; a task of its own, which owns the backend's stream.

        Raises:
            UpstreamTimeout: The turn, or the silence within it, lasted longer than allowed.
        """
        current_record.set(self._record)
        current_turn_id.set(self.request.turn_id)
        idle_s, total_s = self._service.settings.idle_timeout_s, self._service.settings.total_timeout_s
        if self._guest is not None:
            total_s = min(total_s, self._guest.turn_timeout_s)
        now = asyncio.get_running_loop().time
        try:
            async with (
                asyncio.timeout(total_s) as total,
                asyncio.timeout(idle_s) as idle,
                aclosing(self._service.backend(self.request).stream(self.request)) as events,
            ):
                async for event in events:
                    idle.reschedule(now() + idle_s)
                    await stream.send(event)
                    idle.reschedule(now() + idle_s)
        except TimeoutError as error:
            if idle.expired():
                raise UpstreamTimeout(SILENT.format(in_seconds(idle_s)), limit="idle_timeout_s") from error
            if total.expired():
                too_slow = TOO_SLOW.format(in_seconds(total_s))
                raise UpstreamTimeout(too_slow, limit="total_timeout_s") from error
            raise

    def _elapsed_s(self) -> float:
        return 0.0 if self._started_s is None else time.monotonic() - self._started_s

    def _finished(self, event: TurnFinished) -> TurnFinished:
        self.trace_id = event.trace_id or self.trace_id
        return dataclasses.replace(
            event,
            first_delta_s=self._first_delta_s,
            elapsed_s=self._elapsed_s(),
            trace_id=self.trace_id,
        )

    def _fail(self, error: Exception) -> None:
        """End with this failure, under the one id of this turn."""
        if self.stopped or isinstance(self._outcome, TurnFinished):
            return
        failure = self._outcome = DemoError.of(error)
        failure.error_id = self.request.turn_id
        if self._guest is not None:
            self._guest.failed(failure)
        if self._record is not None:
            self._record.hear(failed_from(failure))
            if not failure.from_server:
                self._record.traced_elsewhere = False
                self.trace_id = self._record.trace_id

    def _report(self) -> None:
        """Tell the end once, at whatever comes first: the last event, a stop, or leaving the block."""
        admitted = self._started_s is not None
        if self._reported or not (admitted or isinstance(self._outcome, DemoError)):
            return
        self._reported = True
        details: dict[str, Any] = {"first_delta_s": self._first_delta_s, "elapsed_s": self._elapsed_s()}
        if self._record is not None:
            details["usage"] = self._record.usage
        failure: DemoError | None = None
        match self._outcome:
            case TurnFinished() as finished:
                outcome: Outcome = "finished"
                details |= {"usage": finished.usage, "elapsed_s": finished.elapsed_s}
            case DemoError() as failure:
                outcome = "failed" if admitted else "refused"
                details |= {"code": failure.code, "limit": failure.limit}
            case None:
                outcome = "stopped"
        self._service.tell(TurnEnd.of(self.request, outcome, **details), failure)
