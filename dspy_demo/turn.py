"""`Turn`: one question on its way through the app, to exactly one end."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing
from typing import TYPE_CHECKING, Any, Self, assert_never

from dspy_demo.errors import DemoError, EmptyReply, UpstreamTimeout, in_seconds
from dspy_demo.events import (
    Event,
    FieldDelta,
    LocalTarget,
    Status,
    TurnFailed,
    TurnFinished,
    TurnRequest,
    TurnStarted,
    failed_from,
)
from dspy_demo.guests.limits import GuestTurn
from dspy_demo.logs import current_turn_id
from dspy_demo.metrics import Outcome, TurnEnd
from dspy_demo.streaming.turn_stream import TurnStream
from dspy_demo.tracing.record import TurnRecord, current_record

if TYPE_CHECKING:
    from dspy_demo.chat import ChatService

SILENT = "The language model was silent for {}, so the turn was ended. Try again."
TOO_SLOW = "The turn took longer than {}, so it was ended. What arrived is kept."


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
                    self.trace_id = event.trace_id or self.trace_id
                    event = self._outcome = dataclasses.replace(
                        event,
                        trace_id=self.trace_id,
                        first_delta_s=self._first_delta_s,
                        elapsed_s=self._elapsed_s(),
                    )
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
        heard_s = now()
        try:
            async with (
                asyncio.timeout(total_s) as total,
                asyncio.timeout(idle_s) as idle,
                aclosing(self._service.backend(self.request).stream(self.request)) as events,
            ):
                async for event in events:
                    await stream.send(event)
                    if now() - heard_s > idle_s / 20:  # a timer for each token would cost more than the token
                        heard_s = now()
                        idle.reschedule(heard_s + idle_s)
        except TimeoutError as error:
            if idle.expired():
                raise UpstreamTimeout(SILENT.format(in_seconds(idle_s)), limit="idle_timeout_s") from error
            if total.expired():
                too_slow = TOO_SLOW.format(in_seconds(total_s))
                raise UpstreamTimeout(too_slow, limit="total_timeout_s") from error
            raise

    def _elapsed_s(self) -> float:
        return 0.0 if self._started_s is None else time.monotonic() - self._started_s

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
