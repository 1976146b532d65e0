"""ChatService: runs a turn on the backend it names, within limits, to exactly one end."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from dspy_demo import errors
from dspy_demo.backends.base import Backend
from dspy_demo.errors import DemoError
from dspy_demo.events import (
    LocalTarget,
    TurnFailed,
    TurnFinished,
    TurnRequest,
    Visitor,
    failed_from,
)
from dspy_demo.guests.allowance import Allowance
from dspy_demo.guests.limits import GuestLimits
from dspy_demo.logs import log_failure
from dspy_demo.metrics import Metrics, TurnEnd
from dspy_demo.programs.inputs import check_images, check_inputs, image_chars, image_fields
from dspy_demo.programs.registry import ProgramRegistry
from dspy_demo.settings import Settings
from dspy_demo.tracing.tracer import Tracer
from dspy_demo.turn import Turn

log = logging.getLogger(__name__)

TOO_LONG = (
    "The input has {:,} characters with the chat so far; the limit is {:,}. Shorten it or start a new chat."
)
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
        self.tracer: Tracer = tracer or Tracer()
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
        """Refuse new turns while the app shuts down, with `Stopped`."""
        if self.closing:
            raise errors.Stopped(CLOSING, retry_after_s=RESTART_S)

    def refuse(self, request: TurnRequest) -> None:
        """`check`, for who tells of the refusal."""
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
        """How much of a question is pictures. Which inputs of a served version are some, it alone knows."""
        guest = request.visitor.role == "guest"
        if not isinstance(request.target, LocalTarget):
            return 0 if guest else image_chars(request.inputs, request.inputs)
        spec = self.programs.get(request.target.program)
        check_images(spec, request.inputs, guest=guest)
        return image_chars(request.inputs, image_fields(spec))

    def check_room(self) -> None:
        """Refuse one turn too many, with `Busy`."""
        if len(self.running) >= self.settings.max_turns:
            raise errors.Busy()

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
        """The backend of a request's target.

        Raises:
            NotFound: The target is a served one and no served backend is set up.
        """
        if isinstance(request.target, LocalTarget):
            return self._local
        if self._served is None:
            raise errors.NotFound("No served version is set up here. Log a version and serve it first.")
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
        await asyncio.gather(*(turn.cut_short(errors.Stopped(CLOSING)) for turn in list(self.waiting)))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.running:
                    self._turn_ended.clear()
                    await self._turn_ended.wait()
        await asyncio.gather(*(turn.cut_short(errors.Stopped(CLOSED)) for turn in list(self.running)))

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
