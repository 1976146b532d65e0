"""The day's budget, with the time given."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspy_demo.errors import BudgetSpent, RateLimited
from dspy_demo.guests.budget import DailyBudget
from dspy_demo.guests.spending import GUESTS_MAX, Amount, Spending

NOON = datetime(2026, 11, 25, 12, tzinfo=UTC).timestamp()
DAY_S = 86_400.0


class Clock:
    def __init__(self, now_s: float = NOON) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s


def budget(clock: Clock, *, guest: int = 100, total: int = 250, usd: float = 1.0, **known) -> DailyBudget:
    return DailyBudget(guest, total, usd, clock=clock, **known)


def spend(made: DailyBudget, guest: str, amount: Amount) -> None:
    made.set_aside(guest, amount)
    made.book(guest, amount, amount)


def test_a_guest_who_spent_their_share_is_told_when_it_starts_anew() -> None:
    clock = Clock()
    made = budget(clock)
    spend(made, "a", Amount(100))
    with pytest.raises(
        BudgetSpent, match=r"You have used your 100 tokens for today.*00:00 UTC.*12 hours"
    ) as it:
        made.check("a")
    assert it.value.retry_after_s == 12 * 3600
    assert it.value.http_status == 429
    assert not it.value.retryable
    made.check("b")
    clock.now_s = NOON + DAY_S / 2 - 60
    with pytest.raises(BudgetSpent, match="in about 1 min"):
        made.check("a")
    clock.now_s += 60
    made.check("a")
    assert made.left("a") == 100


@pytest.mark.parametrize("amount", [Amount(250), Amount(1, 1.0)], ids=["tokens", "money"])
def test_when_all_guests_spent_the_day_every_guest_is_refused(amount: Amount) -> None:
    made = budget(Clock(), guest=1000)
    spend(made, "a", amount)
    with pytest.raises(BudgetSpent, match="budget for guests is used up"):
        made.check("b")


def test_running_turns_set_the_rest_aside_and_give_back_what_they_did_not_use() -> None:
    made = budget(Clock())
    made.set_aside("a", Amount(60))
    made.set_aside("a", Amount(60))
    with pytest.raises(RateLimited, match="Try again when they have ended"):
        made.check("a")
    made.check("b")
    made.book("a", Amount(60), Amount(5))
    made.check("a")
    made.book("a", Amount(60), Amount())
    assert made.left("a") == 95


def test_a_clock_that_is_set_back_brings_nothing_back() -> None:
    clock = Clock()
    made = budget(clock)
    spend(made, "a", Amount(100))
    clock.now_s -= 2 * DAY_S
    with pytest.raises(BudgetSpent):
        made.check("a")


def test_what_is_known_from_before_counts_if_it_is_of_today() -> None:
    known = Spending("2026-11-25", Amount(100, 0.5), {"a": 100})
    with pytest.raises(BudgetSpent):
        budget(Clock(), spent=known).check("a")
    yesterdays = Spending("2026-11-24", Amount(100, 0.5), {"a": 100})
    assert budget(Clock(), spent=yesterdays).left("a") == 100


def test_nothing_is_allowed_where_the_budget_is_nothing() -> None:
    with pytest.raises(BudgetSpent):
        budget(Clock(), usd=0).check("a")


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 60)), max_size=100))
def test_turns_side_by_side_overshoot_by_at_most_one_estimate(turns: list[tuple[str, int]]) -> None:
    made, estimate, running = budget(Clock(), usd=1e9), Amount(60), []
    for guest, used in turns:
        try:
            made.check(guest)
        except (BudgetSpent, RateLimited):
            if running:
                made.book(running[0][0], estimate, Amount(running[0][1]))
                running.pop(0)
            continue
        made.set_aside(guest, estimate)
        running.append((guest, used))
    for guest, used in running:
        made.book(guest, estimate, Amount(used))
    assert made.spent.total.tokens < 250 + 60
    assert all(tokens < 100 + 60 for tokens in made.spent.guests.values())
    assert made.spent.total.tokens == sum(made.spent.guests.values())
    assert made._set_aside == Amount()


def test_the_names_that_are_kept_are_bounded_and_the_total_stays_right() -> None:
    names = {f"g{number}": number + 2 for number in range(GUESTS_MAX)}
    full = Spending("2026-11-25", Amount(7), names).adding("new", Amount(1))
    assert len(full.guests) == GUESTS_MAX
    assert "new" not in full.guests
    assert full.total.tokens == 8
