"""The day's budget: with the time given, and on the disk."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dspy_demo.errors import BudgetSpent
from dspy_demo.guests.budget import DailyBudget
from dspy_demo.settings import Settings

NOON = datetime(2026, 11, 25, 12, tzinfo=UTC).timestamp()


def budget(path: Path | None = None, now_s: list[float] | None = None) -> DailyBudget:
    times = now_s or [NOON]
    return DailyBudget(path, Settings(guests_daily_tokens=250, guests_daily_usd=1.0), lambda: times[-1])


@pytest.mark.parametrize("amount", [(250, 0.0), (1, 1.0)], ids=["tokens", "money"])
def test_a_spent_day_is_over_until_midnight(amount: tuple[int, float]) -> None:
    now_s = [NOON]
    made = budget(now_s=now_s)
    made.check()
    made.spent(*amount)
    with pytest.raises(BudgetSpent, match="00:00 UTC") as refused:
        made.check()
    assert (refused.value.retry_after_s, refused.value.retryable) == (12 * 3600, False)
    now_s.append(NOON + 12 * 3600)
    made.check()
    now_s.append(NOON)  # a clock that is set back brings nothing back
    with pytest.raises(BudgetSpent):
        made.check()


def test_apps_on_one_folder_and_a_restart_see_the_same_day(tmp_path: Path) -> None:
    path = tmp_path / "guests.db"
    one, other = budget(path), budget(path)
    one.spent(200, 0.5)
    assert other.spent(100, 0.25) == (300, 0.75)
    with pytest.raises(BudgetSpent):
        one.check()
    for made in (one, other):
        made.close()
    assert budget(path).spent() == (300, 0.75)


@pytest.mark.parametrize("broken", ["at the start", "later"])
def test_what_cannot_be_written_counts_in_memory_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, broken: str
) -> None:
    path = tmp_path / "guests.db"
    if broken == "at the start":
        path.write_bytes(b"no database " * 1000)
    made = budget(path)
    if broken == "later":
        made._database.execute("PRAGMA query_only = ON")
    with caplog.at_level(logging.WARNING):
        made.spent(250)
    with pytest.raises(BudgetSpent):
        made.check()
    assert len(caplog.records) == 1
