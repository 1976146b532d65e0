"""The limits of guests' turns, as `chat.ChatService` asks for them. The owner passes all of them."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dspy_demo import errors, events
from dspy_demo.events import Event, FieldDelta, LocalTarget, Status, TurnFinished, TurnRequest, Visitor
from dspy_demo.guests.budget import DailyBudget
from dspy_demo.settings import Settings

#: The streamed text may look this much longer than the limit before the turn is ended: it is an estimate.
OUTPUT_SLACK = 1.5
#: English has somewhat more bytes in a token, code and other scripts somewhat fewer.
BYTES_PER_TOKEN = 4
#: DSPy's instructions around the inputs: 120 to 780 with the shipped programs.
INSTRUCTION_TOKENS = 400
#: With these a model did not begin to answer, and nobody pays.
FREE_FAILURES = (
    errors.ModelSetupError,
    errors.UpstreamAuth,
    errors.UpstreamRejected,
    errors.UpstreamRateLimited,
    errors.UpstreamUnavailable,
)


@dataclass(frozen=True, slots=True)
class Bounds:
    """The limits that are no settings."""

    turns_per_minute: int = 10  # turns and ratings that one guest may begin, and all together
    total_per_minute: int = 60
    input_max_chars: int = 8_000  # with the chat so far
    queue_turns: int = 32  # that may wait, each so long
    queue_timeout_s: float = 60.0
    turn_timeout_s: float = 120.0  # without the wait


class GuestLimits:
    """How much guests may use; their turns run first come, first served. `clock` is in seconds since 1970."""

    def __init__(
        self,
        settings: Settings,
        database: Path | None = None,
        *,
        bounds: Bounds = Bounds(),
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.settings, self.bounds, self.clock = settings, bounds, clock
        self.budget = DailyBudget(database, settings, clock)
        self.waiting: list[GuestTurn] = []
        self.running: list[GuestTurn] = []
        self._places = min(settings.guests_concurrent_turns, max(1, settings.max_turns - 1))
        self._begun: list[tuple[float, str]] = []  # within the last minute: when, and by which guest

    def input_max_chars(self, visitor: Visitor) -> int:
        most = self.settings.input_max_chars
        return most if visitor.role == "owner" else min(most, self.bounds.input_max_chars)

    def check(self, request: TurnRequest) -> None:
        """Refuse with a `Busy` a turn that could neither run nor wait now. It counts as none."""
        if request.visitor.role == "owner":
            return
        self.budget.check()
        self._check_rate(request.visitor.name)
        if len(self.waiting) >= self.bounds.queue_turns:
            raise errors.LineFull()

    def enter(self, request: TurnRequest) -> GuestTurn | None:
        """A place for a turn that `check` has let pass, perhaps in the queue; None for the owner."""
        if request.visitor.role == "owner":
            return None
        self._begun.append((self.clock(), request.visitor.name))
        turn = GuestTurn(self, request)
        self.waiting.append(turn)
        self.move_up()
        return turn

    def count_rating(self, visitor: Visitor) -> None:
        """A visitor rates an answer; `RateLimited` where that is too often."""
        if visitor.role != "owner":
            self._check_rate(visitor.name)
            self._begun.append((self.clock(), visitor.name))

    async def aclose(self) -> None:
        self.budget.close()

    def move_up(self) -> None:
        """Let turns begin for which there is room now, and tell all that their place may have changed."""
        while self.waiting and len(self.running) < self._places:
            self.running.append(self.waiting.pop(0))
            self.running[-1].changed.set()
        for turn in self.waiting:
            turn.changed.set()

    def _check_rate(self, guest: str) -> None:
        now_s = self.clock()
        self._begun = [(at_s, name) for at_s, name in self._begun if at_s > now_s - 60]
        everybody = [at_s for at_s, _ in self._begun]
        own = [at_s for at_s, name in self._begun if name == guest]
        for begun, limit in ((own, "turns_per_minute"), (everybody, "total_per_minute")):
            most = getattr(self.bounds, limit)
            if len(begun) >= most:
                raise errors.RateLimited(retry_after_s=begun[-most] + 60 - now_s, limit=limit)


class GuestTurn:
    """One guest's turn: waits, runs, and is paid for."""

    def __init__(self, limits: GuestLimits, request: TurnRequest) -> None:
        self.changed = asyncio.Event()  # set whenever its place in the queue may have changed
        self.turn_timeout_s = limits.bounds.turn_timeout_s
        self._limits, self._request = limits, request
        self._most_tokens = limits.settings.guest_output_max_tokens
        self._give_up_at = asyncio.get_running_loop().time() + limits.bounds.queue_timeout_s
        self._place_shown = 0
        texts = [*map(str, request.inputs.values()), *(message.text for message in request.history)]
        self._asked_tokens = INSTRUCTION_TOKENS + math.ceil(sum(map(_tokens_of, texts)))
        self._streamed_tokens = 0.0
        self._reserved: int | None = None
        self._end: TurnFinished | errors.DemoError | None = None

    async def next_status(self) -> Status | None:
        """What to show of the queue next; None when the turn may run, or has left."""
        while self in self._limits.waiting:
            place = self._limits.waiting.index(self) + 1
            if place != self._place_shown:
                self._place_shown = place
                return Status(f"You are number {place} in line.", "pending", events.QUEUE_KEY)
            self.changed.clear()
            try:
                async with asyncio.timeout_at(self._give_up_at):
                    await self.changed.wait()
            except TimeoutError:
                raise errors.WaitedTooLong() from None
        if not self._place_shown or self not in self._limits.running:
            return None
        self._place_shown = 0
        return Status("Waited in line.", "done", events.QUEUE_KEY)

    def begin(self) -> TurnRequest:
        """Reserve what the turn may use; gives the request as it may run, with each model call capped.

        DSPy's cache is left out: by a cached answer a guest could tell what others have asked.
        """
        self._limits.budget.check()  # others may have used it up meanwhile
        self._reserved = self._asked_tokens + self._most_tokens
        self._limits.budget.reserved += self._reserved
        target = self._request.target
        if isinstance(target, LocalTarget):
            return replace(self._request, target=replace(target, lm=self._capped(target.lm)))
        return replace(self._request, target=self._capped(target))

    def _capped(self, asked: Any) -> Any:
        most = min(self._most_tokens, asked.max_tokens or self._most_tokens)
        return replace(asked, max_tokens=most, cache=False)

    def hear(self, event: Event | errors.DemoError) -> None:
        """Follow the turn; `AnswerTooLong` when its output has reached the limit."""
        if isinstance(event, TurnFinished | errors.DemoError):
            self._end = event
        elif isinstance(event, FieldDelta):
            self._streamed_tokens += _tokens_of(event.text)
            if self._streamed_tokens > self._most_tokens * OUTPUT_SLACK:
                raise errors.AnswerTooLong()

    def leave(self) -> None:
        """Give the place back and book what the turn used. Safe to call twice."""
        for places in (self._limits.waiting, self._limits.running):
            if self in places:
                places.remove(self)
        self.changed.set()
        self._limits.move_up()
        if self._reserved is not None:
            self._limits.budget.reserved -= self._reserved
            self._reserved = None
            self._limits.budget.spent(*self._used())

    def _used(self) -> tuple[int, float]:
        """Tokens and US dollars, as the model counted them; where it did not, as the turn's text looks."""
        tokens = self._asked_tokens + math.ceil(self._streamed_tokens)
        if isinstance(self._end, TurnFinished):
            usage = self._end.usage
            if usage.total_tokens > 0:
                return usage.total_tokens, max(0.0, usage.cost_usd or 0.0)  # a server may tell anything
            tokens = max(tokens, self._asked_tokens + math.ceil(_tokens_of(str(dict(self._end.outputs)))))
        free = isinstance(self._end, FREE_FAILURES) and not self._streamed_tokens
        return (0 if free else tokens), 0.0


def _tokens_of(text: str) -> float:
    return len(text.encode("utf-8", "surrogatepass")) / BYTES_PER_TOKEN
