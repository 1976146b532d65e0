"""ChatService: runs a turn on the backend it names, within limits, to exactly one end."""

from __future__ import annotations

import asyncio
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
    InvalidInput,
    NotFound,
    Stopped,
    UpstreamTimeout,
)
from dspy_demo.events import (
    Event,
    FieldDelta,
    LocalTarget,
    TurnFailed,
    TurnFinished,
    TurnRequest,
    TurnStarted,
    failed_from,
)
from dspy_demo.programs.registry import ProgramRegistry
from dspy_demo.settings import Settings
from dspy_demo.streaming.pump import Pump
from dspy_demo.tracing.base import NoTracer, Tracer
from dspy_demo.tracing.record import TurnRecord, current_record

log = logging.getLogger(__name__)


class ChatService:
    """The one door to the backends, for the page, the REST routes and the OpenAI routes.

    Args:
        local: Runs programs of `programs` in this process.
        served: Asks a model server, or None where there is none.
        tracer: Gets the record of each turn at its end. It belongs to who made it, who closes it too.
    """

    def __init__(
        self,
        settings: Settings,
        programs: ProgramRegistry,
        local: Backend,
        served: Backend | None = None,
        *,
        tracer: Tracer | None = None,
    ) -> None:
        self.settings = settings
        self.programs = programs
        self._local = local
        self._served = served
        self.tracer: Tracer = tracer or NoTracer()
        self.running: set[Turn] = set()

    def check(self, request: TurnRequest) -> None:
        """Refuse a request that cannot run, before any model is called.

        Raises:
            NotFound: No such program.
            InvalidInput: A required input is missing, or one is unknown or of the wrong type.
            InputTooLong: The inputs and the history exceed the limit.
            Busy: Too many turns are running.
        """
        size = sum(len(str(value)) for value in request.inputs.values())
        size += sum(len(message.text) for message in request.history)
        if size > self.settings.input_max_chars:
            raise InputTooLong(
                f"The input has {size:,} characters with the chat so far; the limit is "
                f"{self.settings.input_max_chars:,}. Shorten it or start a new chat."
            )
        if isinstance(request.target, LocalTarget):
            self._check_fields(request.target.program, request)
        if len(self.running) >= self.settings.max_turns:
            raise Busy()

    def _check_fields(self, program: str, request: TurnRequest) -> None:
        spec = self.programs.get(program)
        known = {field.name: field for field in spec.inputs}
        for name in request.inputs:
            if name not in known:
                raise InvalidInput(
                    f"The program “{spec.title}” has no input “{name[:80]}”. "
                    f"Its inputs are: {', '.join(known)}."
                )
        for name, field in known.items():
            value = request.inputs.get(name)
            if field.required and (value is None or (isinstance(value, str) and not value.strip())):
                raise InvalidInput(f"The input “{name}” is empty. Fill it in and send again.")

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

    async def aclose(self) -> None:
        """End every running turn, then the backends."""
        for turn in list(self.running):
            await turn.stop()
        await self._local.aclose()
        if self._served is not None:
            await self._served.aclose()


class Turn:
    """One running turn.

        async with service.turn(request) as turn:
            async for event in turn: ...

    No exception but `asyncio.CancelledError` comes out of it: a failure is its last event. After
    `stop`, and on leaving the block, everything upstream is closed and no terminal event follows.

    Attributes:
        trace_id: The trace of this turn, from its start on; None where there is none. A request that was
            refused has none, and a served turn has that of its server, unless the server was lost.
    """

    def __init__(self, service: ChatService, request: TurnRequest) -> None:
        self.request = request
        self.stopped = False
        self.trace_id: str | None = None
        self._service = service
        self._record: TurnRecord | None = None
        self._pump: Pump[Event] | None = None
        self._watch: asyncio.Task[None] | None = None
        self._timed_out: DemoError | None = None
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

    async def _close(self) -> None:
        self._service.running.discard(self)
        if self._watch is not None:
            self._watch.cancel()
        try:
            if self._pump is not None:
                await self._pump.stop()
        finally:
            if self._record is not None:
                self._service.tracer.finish(self._record)

    async def __aiter__(self) -> AsyncIterator[Event]:
        self._started_at = self._last_event_at = time.monotonic()
        first_delta_s: float | None = None
        started = False
        try:
            self._service.check(self.request)
            self._service.running.add(self)
            self._begin_record()
            backend = self._service.backend(self.request)
            pump = self._pump = Pump(backend.stream(self.request))
            self._watch = asyncio.create_task(self._end_when_late(pump), name="turn-watch")
            token = current_record.set(self._record)
            async with pump:
                current_record.reset(token)  # the pump's task has it now
                async for event in pump:
                    self._last_event_at = time.monotonic()
                    if isinstance(event, TurnStarted):
                        started = True
                        self.trace_id = event.trace_id or self.trace_id
                        event = dataclasses.replace(event, trace_id=self.trace_id)
                    if first_delta_s is None and isinstance(event, FieldDelta):
                        first_delta_s = self._last_event_at - self._started_at
                    if isinstance(event, TurnFinished):
                        elapsed_s = self._last_event_at - self._started_at
                        self.trace_id = event.trace_id or self.trace_id
                        event = dataclasses.replace(
                            event, first_delta_s=first_delta_s, elapsed_s=elapsed_s, trace_id=self.trace_id
                        )
                    if self._record is not None:
                        self._record.hear(event)
                    yield event
                    if isinstance(event, TurnFinished | TurnFailed):
                        return
            if self.stopped:
                return
            raise self._timed_out or EmptyReply()
        except Exception as error:
            failure = self._failed(error)
        finally:
            await self._close()
        if self.stopped:
            return
        self._log(failure)
        if not started:
            yield TurnStarted("local" if isinstance(self.request.target, LocalTarget) else "served", "")
        yield failed_from(failure)

    def _begin_record(self) -> None:
        self._record = self._service.tracer.begin(self.request)
        self.trace_id = self._record.trace_id if self._record is not None else None

    def _failed(self, error: Exception) -> DemoError:
        failure = error if isinstance(error, DemoError) else DemoError()
        if failure is not error:
            failure.__cause__ = error
        if self._record is not None and not self.stopped:
            self._record.hear(failed_from(failure))
            if not failure.from_server:
                self._record.traced_elsewhere = False
                self.trace_id = self._record.trace_id
        return failure

    async def _end_when_late(self, pump: Pump[Event]) -> None:
        """Stop the pump when the turn, or the silence within it, lasts longer than allowed."""
        idle_s, total_s = self._service.settings.idle_timeout_s, self._service.settings.total_timeout_s
        while True:
            now = time.monotonic()
            idle_left_s = self._last_event_at + idle_s - now
            total_left_s = self._started_at + total_s - now
            if idle_left_s <= 0:
                self._timed_out = UpstreamTimeout(
                    f"The language model was silent for {idle_s:g} seconds, so the turn was ended. Try again."
                )
                break
            if total_left_s <= 0:
                self._timed_out = UpstreamTimeout(
                    f"The turn took longer than {total_s:g} seconds, so it was ended. What arrived is kept."
                )
                break
            await asyncio.sleep(min(idle_left_s, total_left_s))
        await pump.stop()

    def _log(self, failure: DemoError) -> None:
        level = logging.WARNING if failure.code != "internal" else logging.ERROR
        log.log(
            level,
            "turn failed: %s",
            failure.code,
            exc_info=failure.__cause__ if level >= logging.ERROR else None,
            extra={"turn_id": self.request.turn_id, "error_id": failure.error_id, "code": failure.code},
        )
