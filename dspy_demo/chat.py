"""`ChatService` runs a turn on the backend it names, within limits; a `Turn` has exactly one end."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, aclosing, suppress
from dataclasses import replace
from typing import Any, Self

from dspy_demo import errors
from dspy_demo.backends import Backend
from dspy_demo.errors import DemoError, UpstreamTimeout, in_seconds
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
from dspy_demo.programs.inputs import check_images, check_inputs, image_chars
from dspy_demo.programs.registry import ProgramRegistry
from dspy_demo.settings import Settings
from dspy_demo.streaming.turn_stream import TurnStream
from dspy_demo.tracing.record import TurnRecord, current_record
from dspy_demo.tracing.tracer import Tracer

log = logging.getLogger(__name__)

TOO_LONG = "The input has {:,} characters with the chat so far; the limit is {:,}. Start a new chat."
SILENT = "The language model was silent for {}, so the turn was ended. Try again."
TOO_SLOW = "The turn took longer than {}, so it was ended. What arrived is kept."
CLOSED = "The server was stopped before the answer was finished. What arrived is kept."
CLOSING = "The server is shutting down and takes no new questions. Try again in a moment."
#: About as long as a start takes.
RESTART_S = 10.0


class ChatService:
    """The one way to the backends, for the page and for all routes.

    `allowance` and `limits` are what guests may use, and how much; None where everybody is the owner.
    """

    def __init__(
        self,
        settings: Settings,
        programs: ProgramRegistry,
        local: Backend,
        served: Backend | None = None,
        *,
        tracer: Tracer | None = None,
        allowance: Allowance | None = None,
        limits: GuestLimits | None = None,
    ) -> None:
        self.settings = settings
        self.programs = programs
        self._local, self._served = local, served
        self.tracer = tracer or Tracer()
        self.observer = Metrics()
        self.allowance, self.limits = allowance, limits
        self.running: set[Turn] = set()
        self.waiting: set[Turn] = set()
        self.closing = False

    def input_max_chars(self, visitor: Visitor) -> int:
        """The longest input of a turn, all fields and the chat so far together, in characters."""
        return self.limits.input_max_chars(visitor) if self.limits else self.settings.input_max_chars

    def check(self, request: TurnRequest) -> None:
        """Refuse a request that cannot run."""
        try:
            self.refuse(request)
        except Exception as error:
            refusal = DemoError.of(error)
            refusal.error_id = request.turn_id
            self.tell(TurnEnd.of(request, "refused", code=refusal.code, limit=refusal.limit), refusal)
            raise refusal from refusal.__cause__

    def check_open(self) -> None:
        """Refuse new turns while the app shuts down."""
        if self.closing:
            raise errors.Stopped(CLOSING, retry_after_s=RESTART_S)

    def check_room(self) -> None:
        """Refuse a turn that cannot start now."""
        self.check_open()
        if len(self.running) >= self.settings.max_turns:
            raise errors.Busy()

    def refuse(self, request: TurnRequest) -> None:
        """`check` without telling of it."""
        self.check_open()
        if self.allowance is not None:
            self.allowance.check(request)
        texts = [*map(str, request.inputs.values()), *(message.text for message in request.history)]
        size, most = sum(map(len, texts)) - self._image_chars(request), self.input_max_chars(request.visitor)
        if size > most:
            raise errors.InputTooLong(TOO_LONG.format(size, most))
        if isinstance(request.target, LocalTarget):
            check_inputs(self.programs.get(request.target.program), request.inputs)
        if self.limits:
            self.limits.check(request)
        self.check_room()

    def _image_chars(self, request: TurnRequest) -> int:
        """How much of a question is images. Which inputs of a served version are some, it alone knows."""
        guest = request.visitor.role == "guest"
        if not isinstance(request.target, LocalTarget):
            return 0 if guest else image_chars(request.inputs.values())
        return check_images(self.programs.get(request.target.program), request.inputs, guest=guest)

    def turn(self, request: TurnRequest) -> Turn:
        return Turn(self, request)

    async def answer(self, request: TurnRequest) -> TurnFinished | TurnFailed:
        """Run a turn to its end and give only that."""
        async with self.turn(request) as turn:
            async for event in turn:
                if isinstance(event, TurnFinished | TurnFailed):
                    return event
        return failed_from(errors.Stopped())

    def backend(self, request: TurnRequest) -> Backend:
        if isinstance(request.target, LocalTarget):
            return self._local
        if self._served is None:
            raise errors.NotFound("No served version is set up here.")
        return self._served

    def tell(self, end: TurnEnd, failure: DemoError | None = None) -> None:
        """The end of a turn, to the log and the observer."""
        refused = end.outcome == "refused"
        if failure is not None:
            log_failure(log, f"turn {end.outcome}", failure, refused=refused, **end.fields())
        else:
            log.info("turn %s", end.outcome, extra=end.fields())
        self.observer.turn_ended(end)

    async def drain(self, seconds: float) -> None:
        """Take no new turns, and give the running ones `seconds` to finish; the rest ends with `Stopped`."""
        self.closing = True
        await asyncio.gather(*(turn.cut_short(errors.Stopped(CLOSING)) for turn in list(self.waiting)))
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.gather(*(turn.ended.wait() for turn in self.running)), seconds)
        await asyncio.gather(*(turn.cut_short(errors.Stopped(CLOSED)) for turn in list(self.running)))

    async def aclose(self) -> None:
        """End every running turn, then the backends."""
        self.closing = True
        for turn in [*self.waiting, *self.running]:
            await turn.stop()
        await self._local.aclose()
        if self._served is not None:
            await self._served.aclose()
        if self.limits is not None:
            await self.limits.aclose()


class Turn:
    """One question on its way through the app: it is admitted, runs, and is reported.

        async with service.turn(request) as turn:
            async for event in turn: ...

    A failure is its last event, not an exception. After `stop`, and on leaving the block, everything upstream
    is closed and no terminal event follows. A guest's turn may wait in line: then `Status` events come before
    `TurnStarted`, and time counts from the end of the wait. `trace_id` is that of the model server where one
    runs the turn.
    """

    def __init__(self, service: ChatService, request: TurnRequest) -> None:
        self.request = request
        self.stopped, self.ended = False, asyncio.Event()
        self.trace_id: str | None = None
        self._service = service
        self._stream = TurnStream[Event]()
        self._guest: GuestTurn | None = None
        self._record: TurnRecord | None = None
        self._cut_short: DemoError | None = None
        self._started_s: float | None = None  # None until it is admitted
        self._outcome: TurnFinished | DemoError | None = None  # None where it was stopped
        self._first_delta_s: float | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stream.close()

    async def stop(self) -> None:
        """End the turn now, from any task: the upstream is closed when this returns."""
        self.stopped = True
        await self._stream.close()

    async def cut_short(self, reason: DemoError) -> None:
        """End the turn now, from any task, with `reason` as its last event."""
        self._cut_short = reason
        await self._stream.close()

    async def __aiter__(self) -> AsyncIterator[Event]:
        if self.stopped:
            return
        started = False
        self._stream.start(self._work())
        try:
            async for event in self._stream:
                started = started or isinstance(event, TurnStarted)
                yield event
        finally:
            await self._stream.close()
        if self.stopped or self._outcome is None:
            return
        if not started:
            yield TurnStarted("local" if isinstance(self.request.target, LocalTarget) else "served", "")
        yield failed_from(self._outcome) if isinstance(self._outcome, DemoError) else self._outcome

    async def _work(self) -> None:
        """The turn from its admission to its report, in the task that owns the backend's stream."""
        with ExitStack() as held:
            held.callback(self.ended.set)
            held.callback(self._report)
            try:
                await self._admit(held)
                self._begin(held)
                await self._run()
            except asyncio.CancelledError:
                if self._cut_short is not None:
                    self._fail(self._cut_short)
                raise
            except Exception as error:
                self._fail(error)

    async def _admit(self, held: ExitStack) -> None:
        """Check the request, and wait in line where the visitor has to."""
        service = self._service
        service.refuse(self.request)
        self._guest = service.limits.enter(self.request) if service.limits else None
        if self._guest is not None:
            held.callback(self._guest.leave)
            held.callback(service.waiting.discard, self)
            service.waiting.add(self)
            while (status := await self._guest.next_status()) is not None:
                await self._stream.send(status)
            service.waiting.discard(self)

    def _begin(self, held: ExitStack) -> None:
        service = self._service
        service.check_room()
        if self._guest is not None:
            self.request = self._guest.begin()
        self._started_s = time.monotonic()
        service.running.add(self)
        held.callback(service.running.discard, self)
        service.observer.turn_started(self.request)
        self._record = service.tracer.begin(self.request)
        if self._record is not None:
            held.callback(service.tracer.finish, self._record)
            self.trace_id = self._record.trace_id
        current_record.set(self._record)
        current_turn_id.set(self.request.turn_id)

    async def _run(self) -> None:
        """Send the backend's events, within the limits of time, up to the last one."""
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
                    event = self._heard(event)
                    if isinstance(event, TurnFinished):
                        self._outcome = event
                        return
                    await self._stream.send(event)
                    idle.reschedule(now() + idle_s)
        except TimeoutError as error:
            if idle.expired():
                raise UpstreamTimeout(SILENT.format(in_seconds(idle_s)), limit="idle_timeout_s") from error
            if total.expired():
                too_slow = TOO_SLOW.format(in_seconds(total_s))
                raise UpstreamTimeout(too_slow, limit="total_timeout_s") from error
            raise
        raise errors.EmptyReply()

    def _heard(self, event: Event) -> Event:
        if isinstance(event, TurnStarted | TurnFinished):
            self.trace_id = event.trace_id or self.trace_id
            event = replace(event, trace_id=self.trace_id)
        elif isinstance(event, FieldDelta) and self._first_delta_s is None:
            self._first_delta_s = self._elapsed_s()
        if isinstance(event, TurnFinished):
            event = replace(event, elapsed_s=self._elapsed_s(), first_delta_s=self._first_delta_s)
        for listener in (self._guest, self._record):
            if listener is not None:
                listener.hear(event)
        return event

    def _elapsed_s(self) -> float:
        return 0.0 if self._started_s is None else time.monotonic() - self._started_s

    def _fail(self, error: Exception) -> None:
        if self.stopped or self._outcome is not None:
            return
        failure = self._outcome = DemoError.of(error)
        failure.error_id = self.request.turn_id
        if self._guest is not None:
            self._guest.hear(failure)
        if self._record is not None:
            self._record.hear(failed_from(failure))
            if not failure.from_server:
                self._record.traced_elsewhere = False
                self.trace_id = self._record.trace_id

    def _report(self) -> None:
        """Tell the end, but of a turn that left the line before it ran."""
        details: dict[str, Any] = {"first_delta_s": self._first_delta_s, "elapsed_s": self._elapsed_s()}
        details["usage"] = self._record.usage if self._record else Usage()
        failure: DemoError | None = None
        ended: Outcome = "stopped"
        if isinstance(self._outcome, TurnFinished):
            ended, details["usage"] = "finished", self._outcome.usage
        elif self._outcome is not None:
            failure, ended = self._outcome, "refused" if self._started_s is None else "failed"
            details |= {"code": failure.code, "limit": failure.limit}
        elif self._started_s is None:
            return
        self._service.tell(TurnEnd.of(self.request, ended, **details), failure)
