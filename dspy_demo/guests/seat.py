"""One guest's turn under its limits: waits in line, runs, and is paid for."""

from __future__ import annotations

import asyncio
import dataclasses
import math
from typing import TYPE_CHECKING

from dspy_demo.errors import (
    AnswerTooLong,
    DemoError,
    MalformedReply,
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
)
from dspy_demo.guests.estimate import Estimate, tokens_of
from dspy_demo.guests.line import Ticket
from dspy_demo.guests.spending import Amount

if TYPE_CHECKING:
    from dspy_demo.guests.limits import GuestLimits

#: The streamed text may look this much longer than the limit before the turn is ended: a single call, which
#: its model ends at the limit, should not be cut by an estimate.
OUTPUT_SLACK = 1.5
#: Below this part of the day's tokens a guest is told what is left.
LITTLE_LEFT = 0.2
#: With these a model did not begin to answer, and nobody pays.
FREE_FAILURES = (UpstreamAuth, UpstreamRejected, UpstreamRateLimited, UpstreamUnavailable)


class Seat:
    """What one turn of a guest holds. `leave` gives it back, whenever and however the turn ends.

    Args:
        ticket: Its place in line or among the running turns.
    """

    def __init__(self, limits: GuestLimits, request: TurnRequest, ticket: Ticket) -> None:
        self._limits = limits
        self._request = request
        self._guest = request.visitor.name
        self._ticket = ticket
        self._entered_s = limits.clock()
        self._give_up_at = asyncio.get_running_loop().time() + limits.settings.guests_queue_timeout_s
        self._told = ""
        self._estimate = Estimate(request)
        self._set_aside: Amount | None = None
        self._end: TurnFinished | DemoError | None = None

    # In line

    async def next_status(self) -> Status | None:
        """What to show of the line next; None when the turn may run, or has left.

        Raises:
            WaitedTooLong: No place became free in time.
        """
        ticket = self._ticket
        while ticket.state == "waiting":
            text = self._place_in_line()
            if text != self._told:
                self._told = text
                return Status(text, "pending", QUEUE_KEY)
            ticket.changed.clear()
            try:
                async with asyncio.timeout_at(self._give_up_at):
                    await ticket.changed.wait()
            except TimeoutError:
                raise WaitedTooLong() from None
        if self._told and ticket.state == "running":
            self._told = ""
            return Status(
                f"Waited in line for {self._limits.clock() - self._entered_s:.0f} s.", "done", QUEUE_KEY
            )
        return None

    def _place_in_line(self) -> str:
        if self._limits.line.held_up(self._ticket):
            return "This question waits for your other one to end."
        return f"You are {ordinal(self._limits.line.position(self._ticket))} in line."

    # Running

    def begin(self) -> TurnRequest:
        """Set the turn's estimate aside; gives the request as it may run, with its output capped.

        Raises:
            BudgetSpent, RateLimited: The budget was used up while the turn waited.
        """
        self._limits.budget.check(self._guest)
        most = self._estimate.asked_tokens + self._limits.settings.guest_output_max_tokens
        self._set_aside = self._priced(most)
        self._limits.budget.set_aside(self._guest, self._set_aside)
        return self._capped()

    @property
    def turn_timeout_s(self) -> float:
        """The longest time for the turn, from `begin` on."""
        return self._limits.settings.guest_turn_timeout_s

    def little_left(self) -> Status | None:
        """A word on the day's tokens, when few are left."""
        daily, left = self._limits.settings.guest_daily_tokens, self._limits.budget.left(self._guest)
        if left >= LITTLE_LEFT * daily:
            return None
        return Status(f"You have about {left:,} tokens left for today; {daily:,} is a whole day.")

    def hear(self, event: Event) -> None:
        """Follow the turn.

        Raises:
            AnswerTooLong: Its output has reached the limit.
        """
        if isinstance(event, FieldDelta):
            self._estimate.hear(event)
            most = self._limits.settings.guest_output_max_tokens
            if self._estimate.streamed_tokens > most * OUTPUT_SLACK:
                raise self._too_long()
        elif isinstance(event, TurnFinished):
            self._end = event

    def explained(self, failure: DemoError) -> DemoError:
        """The failure, or what it really was: a reply that its cap cut off lacks its last fields."""
        self._end = failure
        long = self._estimate.streamed_tokens * 2 >= self._limits.settings.guest_output_max_tokens
        if isinstance(failure, MalformedReply) and long:
            self._end = self._too_long()
            self._end.__cause__ = failure
        return self._end

    def _too_long(self) -> AnswerTooLong:
        most = self._limits.settings.guest_output_max_tokens
        return AnswerTooLong(
            f"The answer reached the {most:,} tokens that a guest's turn may have, so it was ended. "
            "What arrived is kept."
        )

    # At the end

    def leave(self) -> None:
        """Give the place back and book what the turn used. Safe to call twice."""
        self._limits.line.leave(self._ticket)
        if self._set_aside is not None:
            set_aside, self._set_aside = self._set_aside, None
            self._limits.budget.book(self._guest, set_aside, self._used())
            self._limits.save_soon()

    def _used(self) -> Amount:
        """As the model counted it; where it did not, as the turn's text looks."""
        end = self._end
        asked_model = not isinstance(end, DemoError) or (
            isinstance(end, UpstreamError) and not isinstance(end, FREE_FAILURES)
        )
        if not asked_model and not self._estimate.streamed_tokens:
            return Amount()
        if not isinstance(end, TurnFinished):
            return self._priced(self._estimate.tokens)
        usage = end.usage
        if usage.cached:
            return Amount()
        if usage.total_tokens <= 0:  # a plain ``mlflow models serve`` tells none
            answered = tokens_of(len(str(dict(end.outputs)).encode("utf-8", "replace")))
            return self._priced(max(self._estimate.tokens, self._estimate.asked_tokens + answered))
        cost_usd = usage.cost_usd
        known = isinstance(cost_usd, int | float) and 0 <= cost_usd < math.inf  # a server may tell anything
        if cost_usd is None or not known:
            return self._priced(usage.total_tokens)
        prices = self._limits.usd_per_token
        prices[self._model] = max(prices.get(self._model, 0.0), cost_usd / usage.total_tokens)
        return Amount(usage.total_tokens, cost_usd)

    def _priced(self, tokens: int) -> Amount:
        return Amount(tokens, tokens * self._limits.usd_per_token.get(self._model, 0.0))

    @property
    def _model(self) -> str:
        target = self._request.target
        return target.lm.model if isinstance(target, LocalTarget) else target.version or target.url

    def _capped(self) -> TurnRequest:
        """No single model call may be longer than the whole turn, and none is answered from DSPy's cache.

        From a cached answer a guest could tell what others have asked.
        """
        most, target = self._limits.settings.guest_output_max_tokens, self._request.target
        if isinstance(target, LocalTarget):
            most = min(most, target.lm.max_tokens or most)
            lm = dataclasses.replace(target.lm, max_tokens=most, cache=False)
            return dataclasses.replace(self._request, target=dataclasses.replace(target, lm=lm))
        most = min(most, target.max_tokens or most)
        served = dataclasses.replace(target, max_tokens=most, cache=False)
        return dataclasses.replace(self._request, target=served)


def ordinal(number: int) -> str:
    """``1st``, ``2nd``, ``11th``."""
    if number % 100 in {11, 12, 13}:
        return f"{number}th"
    return f"{number}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th') }"
