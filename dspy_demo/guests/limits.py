"""The limits of guests' turns, as `chat.ChatService` asks for them. The owner passes all of them.

The bounds of one guest keep guests from hindering each other; what protects the owner are the totals.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dspy_demo.errors import (
    AnswerTooLong,
    DemoError,
    LineFull,
    RateLimited,
    UpstreamAuth,
    UpstreamError,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamUnavailable,
    WaitedTooLong,
)
from dspy_demo.events import (
    QUEUE_KEY,
    Event,
    FieldDelta,
    LocalTarget,
    Status,
    TurnFinished,
    TurnRequest,
    Visitor,
)
from dspy_demo.guests.budget import Amount, DailyBudget
from dspy_demo.settings import Settings

#: The streamed text may look this much longer than the limit before the turn is ended: it is an estimate.
OUTPUT_SLACK = 1.5
#: English has somewhat more bytes in a token, code and other scripts somewhat fewer.
BYTES_PER_TOKEN = 4
#: DSPy's instructions around the inputs: 120 to 200 with most shipped programs, 780 for the agent's tools.
INSTRUCTION_TOKENS = 400
#: With these a model did not begin to answer, and nobody pays.
FREE_FAILURES = (UpstreamAuth, UpstreamRejected, UpstreamRateLimited, UpstreamUnavailable)


@dataclass(frozen=True, slots=True)
class Bounds:
    """The limits that are no settings."""

    turns_per_minute: int = 10  # that one guest may begin, and all together
    total_per_minute: int = 60
    concurrent_turns: int = 2  # of one guest; as many more may wait
    input_max_chars: int = 8_000  # with the chat so far
    queue_turns: int = 32  # that may wait, each so long
    queue_timeout_s: float = 60.0
    turn_timeout_s: float = 120.0  # without the wait


class RateWindow:
    """What was begun within the last minute, of one guest and of all."""

    def __init__(self, per_guest: int, in_total: int) -> None:
        self._per_guest, self._in_total = per_guest, in_total
        self._begun: list[tuple[float, str]] = []

    def check(self, guest: str, now_s: float) -> None:
        """Refuse one too many with `RateLimited`, and the time after which there is room again."""
        self._begun = [(at_s, name) for at_s, name in self._begun if at_s > now_s - 60]
        everybody = [at_s for at_s, _ in self._begun]
        own = [at_s for at_s, name in self._begun if name == guest]
        for begun, most, limit, why in (
            (own, self._per_guest, "turns_per_minute", f"The limit here is {self._per_guest} a minute."),
            (everybody, self._in_total, "total_per_minute", "Many people are asking at the moment."),
        ):
            if len(begun) >= most:
                wait_s = begun[-most] + 60 - now_s
                sentence = f"{why} Try again in {math.ceil(wait_s)} s."
                raise RateLimited(sentence, retry_after_s=wait_s, limit=limit)

    def count(self, guest: str, now_s: float) -> None:
        self._begun.append((now_s, guest))


class GuestLimits:
    """How much guests may use, one by one and all together.

    Guests' turns run first come, first served; a turn of a guest at the bound of their own is passed over.

    Args:
        database: Keeps the day's spending; None for memory only.
        clock: Seconds since the epoch.
    """

    def __init__(
        self,
        settings: Settings,
        database: Path | None = None,
        *,
        bounds: Bounds = Bounds(),
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.settings, self.bounds, self.clock = settings, bounds, clock
        own, total = bounds.turns_per_minute, bounds.total_per_minute
        self.turns = RateWindow(own, total)
        self.ratings = RateWindow(2 * own, 2 * total)  # a thumb, and a comment to it
        most = Amount(settings.guests_daily_tokens, settings.guests_daily_usd)
        self.budget = DailyBudget(database, most, clock)
        #: The highest price of a token seen for a model, for turns whose price nobody tells.
        self.usd_per_token: dict[str, float] = {}
        self.waiting: list[GuestTurn] = []
        self.running: list[GuestTurn] = []
        self._places = min(settings.guests_concurrent_turns, max(1, settings.max_turns - 1))

    def input_max_chars(self, visitor: Visitor) -> int:
        most = self.settings.input_max_chars
        return most if visitor.role == "owner" else min(most, self.bounds.input_max_chars)

    def check(self, request: TurnRequest) -> None:
        """Refuse with a `Busy` a turn that could neither run nor wait now. It counts as none."""
        guest = request.visitor.name
        if request.visitor.role == "owner":
            return
        self.budget.check()
        self.turns.check(guest, self.clock())
        if self.has_room(guest):
            return
        if sum(turn.guest == guest for turn in self.waiting) >= self.bounds.concurrent_turns:
            sentence = "Your earlier questions are still waiting. Send this one when they are answered."
            raise LineFull(sentence, limit="concurrent_turns")
        if len(self.waiting) >= self.bounds.queue_turns:
            raise LineFull()

    def enter(self, request: TurnRequest) -> GuestTurn | None:
        """A place for a turn, perhaps in the queue; None for the owner, who needs none. See `check`."""
        if request.visitor.role == "owner":
            return None
        self.check(request)
        self.turns.count(request.visitor.name, self.clock())
        turn = GuestTurn(self, request)
        self.waiting.append(turn)
        self.move_up()
        return turn

    def count_rating(self, visitor: Visitor) -> None:
        """A visitor rates an answer; `RateLimited` where that is too often."""
        if visitor.role != "owner":
            self.ratings.check(visitor.name, self.clock())
            self.ratings.count(visitor.name, self.clock())

    async def aclose(self) -> None:
        self.budget.close()

    def at_own_bound(self, guest: str) -> bool:
        return sum(turn.guest == guest for turn in self.running) >= self.bounds.concurrent_turns

    def has_room(self, guest: str) -> bool:
        return len(self.running) < self._places and not self.at_own_bound(guest)

    def move_up(self) -> None:
        """Let turns begin for which there is room now, and tell the others that their place has changed."""
        for turn in list(self.waiting):
            if self.has_room(turn.guest):
                self.waiting.remove(turn)
                self.running.append(turn)
            turn.changed.set()


class GuestTurn:
    """One guest's turn: waits, runs, and is paid for.

    Attributes:
        changed: Set whenever its place in the queue may have changed.
        turn_timeout_s: The longest time for the turn, from `begin` on.
    """

    def __init__(self, limits: GuestLimits, request: TurnRequest) -> None:
        self.guest, self._model = request.visitor.name, request.target.model
        self.changed = asyncio.Event()
        self.turn_timeout_s = limits.bounds.turn_timeout_s
        self._limits, self._request = limits, request
        self._most_tokens = limits.settings.guest_output_max_tokens
        self._entered_s = limits.clock()
        self._give_up_at = asyncio.get_running_loop().time() + limits.bounds.queue_timeout_s
        self._shown = ""
        texts = [*map(str, request.inputs.values()), *(message.text for message in request.history)]
        self._asked_tokens = INSTRUCTION_TOKENS + math.ceil(sum(map(_tokens_of, texts)))
        self._streamed_tokens = 0.0
        self._reserved: Amount | None = None
        self._end: TurnFinished | DemoError | None = None

    async def next_status(self) -> Status | None:
        """What to show of the queue next; None when the turn may run, or has left.

        Raises:
            WaitedTooLong: No place became free in time.
        """
        while self in self._limits.waiting:
            text = f"You are number {self._limits.waiting.index(self) + 1} in line."
            if self._limits.at_own_bound(self.guest):
                text = "This question waits for your other one to end."
            if text != self._shown:
                self._shown = text
                return Status(text, "pending", QUEUE_KEY)
            self.changed.clear()
            try:
                async with asyncio.timeout_at(self._give_up_at):
                    await self.changed.wait()
            except TimeoutError:
                raise WaitedTooLong() from None
        if not self._shown or self not in self._limits.running:
            return None
        self._shown = ""
        waited_s = self._limits.clock() - self._entered_s
        return Status(f"Waited in line for {waited_s:.0f} s.", "done", QUEUE_KEY)

    def begin(self) -> TurnRequest:
        """Reserve what the turn may use; gives the request as it may run, with each model call capped.

        DSPy's cache is left out: by a cached answer a guest could tell what others have asked.

        Raises:
            BudgetSpent, RateLimited: The budget was used up while the turn waited.
        """
        self._limits.budget.check()
        self._reserved = self._priced(self._asked_tokens + self._most_tokens)
        self._limits.budget.reserve(self._reserved)
        target = self._request.target
        if isinstance(target, LocalTarget):
            return replace(self._request, target=replace(target, lm=self._capped(target.lm)))
        return replace(self._request, target=self._capped(target))

    def _capped(self, asked: Any) -> Any:
        """A model's choice or a served target, with its output bounded."""
        most = min(self._most_tokens, asked.max_tokens or self._most_tokens)
        return replace(asked, max_tokens=most, cache=False)

    def hear(self, event: Event) -> None:
        """Follow the turn; `AnswerTooLong` when its output has reached the limit."""
        if isinstance(event, TurnFinished):
            self._end = event
        elif isinstance(event, FieldDelta):
            self._streamed_tokens += _tokens_of(event.text)
            if self._streamed_tokens > self._most_tokens * OUTPUT_SLACK:
                raise AnswerTooLong(
                    f"The answer reached the {self._most_tokens:,} tokens that a guest's turn may have, "
                    "so it was ended. What arrived is kept."
                )

    def failed(self, failure: DemoError) -> None:
        """The turn has failed: with some failures nothing was used."""
        self._end = failure

    def leave(self) -> None:
        """Give the place back and book what the turn used. Safe to call twice."""
        for places in (self._limits.waiting, self._limits.running):
            if self in places:
                places.remove(self)
        self.changed.set()
        self._limits.move_up()
        if self._reserved is not None:
            reserved, self._reserved = self._reserved, None
            self._limits.budget.book(reserved, self._used())

    def _used(self) -> Amount:
        """As the model counted it; where it did not, as the turn's text looks."""
        end, guessed = self._end, self._asked_tokens + math.ceil(self._streamed_tokens)
        if isinstance(end, DemoError) and not self._streamed_tokens:
            asked_model = isinstance(end, UpstreamError) and not isinstance(end, FREE_FAILURES)
            return self._priced(guessed) if asked_model else Amount()
        if not isinstance(end, TurnFinished):
            return self._priced(guessed)
        usage = end.usage
        if usage.total_tokens <= 0:  # a plain ``mlflow models serve`` tells none
            answered = math.ceil(_tokens_of(str(dict(end.outputs))))
            return self._priced(max(guessed, self._asked_tokens + answered))
        if usage.cost_usd is None or not 0 <= usage.cost_usd < math.inf:  # a server may tell anything
            return self._priced(usage.total_tokens)
        prices = self._limits.usd_per_token
        prices[self._model] = max(prices.get(self._model, 0.0), usage.cost_usd / usage.total_tokens)
        return Amount(usage.total_tokens, usage.cost_usd)

    def _priced(self, tokens: int) -> Amount:
        return Amount(tokens, tokens * self._limits.usd_per_token.get(self._model, 0.0))


def _tokens_of(text: str) -> float:
    return len(text.encode("utf-8", "surrogatepass")) / BYTES_PER_TOKEN
