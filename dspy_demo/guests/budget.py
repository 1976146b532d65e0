"""The day's budget of guests: what is spent, and what running turns have set aside."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from dspy_demo.errors import BudgetSpent, RateLimited
from dspy_demo.guests.spending import Amount, Spending, day_of, seconds_left

#: When to ask again while running turns hold the rest of the budget.
IN_USE_RETRY_S = 10.0


class DailyBudget:
    """Refuses turns when the day's tokens or money are used up; a new day begins at 00:00 UTC.

    A turn sets an estimate aside when it starts, and what it really used replaces that at its end. So turns
    that run side by side overshoot the budget by no more than one estimate, and by what each of them uses
    beyond its own. A clock that is set back does not bring a day's budget back.

    Args:
        guest_tokens: Of one guest a day.
        total_tokens, total_usd: Of all guests a day.
        clock: Seconds since the epoch.
        spent: What is known from before.
    """

    def __init__(
        self,
        guest_tokens: int,
        total_tokens: int,
        total_usd: float,
        *,
        clock: Callable[[], float],
        spent: Spending | None = None,
    ) -> None:
        self._guest_tokens = guest_tokens
        self._total_tokens = total_tokens
        self._total_usd = total_usd
        self._clock = clock
        self._set_aside = Amount()
        self._set_aside_by: Counter[str] = Counter()
        today = Spending(day_of(clock()))
        self.spent = today if spent is None else today.merged(spent)
        self.unsaved = Spending(self.spent.day)

    def check(self, guest: str) -> None:
        """Refuse a turn for which nothing is left.

        Raises:
            BudgetSpent: Until the end of the day.
            RateLimited: The rest is set aside for turns that run now.
        """
        self._turn_the_page()
        own, total = self.spent.guests.get(guest, 0), self.spent.total
        if own >= self._guest_tokens:
            raise self._spent(
                f"You have used your {self._guest_tokens:,} tokens for today.", "guest_daily_tokens"
            )
        if total.tokens >= self._total_tokens or total.usd >= self._total_usd:
            limit = "guests_daily_usd" if total.usd >= self._total_usd else "guests_daily_tokens"
            raise self._spent("Today's budget for guests is used up.", limit)
        total += self._set_aside
        if (
            own + self._set_aside_by[guest] >= self._guest_tokens
            or total.tokens >= self._total_tokens
            or (self._set_aside.usd > 0 and total.usd >= self._total_usd)
        ):
            raise RateLimited(
                "The questions that are being answered may use the rest of today's budget. "
                "Try again when they have ended.",
                retry_after_s=IN_USE_RETRY_S,
                limit="guests_daily_tokens",
            )

    def set_aside(self, guest: str, amount: Amount) -> None:
        """A turn of `guest` starts, which may use `amount`."""
        self._set_aside += amount
        self._set_aside_by[guest] += amount.tokens

    def book(self, guest: str, set_aside: Amount, used: Amount) -> None:
        """The turn has ended and used `used`."""
        self._turn_the_page()
        self._set_aside -= set_aside
        self._set_aside_by[guest] -= set_aside.tokens
        self._set_aside_by += Counter()  # drops the zeros
        if used != Amount():
            self.spent = self.spent.adding(guest, used)
            self.unsaved = self.unsaved.adding(guest, used)

    def left(self, guest: str) -> int:
        """Tokens that `guest` may still use today."""
        own = self._guest_tokens - self.spent.guests.get(guest, 0)
        return max(0, min(own, self._total_tokens - self.spent.total.tokens))

    def take_unsaved(self) -> Spending:
        """What is to be added to the file; it counts as saved from here on."""
        taken, self.unsaved = self.unsaved, Spending(self.spent.day)
        return taken

    def give_back(self, unsaved: Spending) -> None:
        """It could not be saved."""
        self.unsaved = self.unsaved.merged(unsaved)

    def saw(self, saved: Spending) -> None:
        """What the file holds now, of other apps too."""
        self.spent = self.unsaved.merged(saved)
        self._turn_the_page()

    def _turn_the_page(self) -> None:
        today = day_of(self._clock())
        if today > self.spent.day:
            self.spent = self.unsaved = Spending(today)

    def _spent(self, what: str, limit: str) -> BudgetSpent:
        wait_s = seconds_left(self.spent.day, self._clock())
        hours, minutes = round(wait_s / 3600), max(1, round(wait_s / 60))
        wait = f"{hours} hours" if minutes >= 90 else f"{minutes} min"
        return BudgetSpent(
            f"{what} It starts anew at 00:00 UTC, in about {wait}.", retry_after_s=wait_s, limit=limit
        )
