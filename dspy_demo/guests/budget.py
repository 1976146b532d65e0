"""The day's budget of all guests: one table, shared by all apps on a data folder.

Whoever drops the cookie is a new guest, so no bound of one guest protects anything. Only these totals do.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from dspy_demo.errors import BudgetSpent, RateLimited

log = logging.getLogger(__name__)

#: When to ask again while running turns hold the rest of the budget.
IN_USE_RETRY_S = 10.0
_TABLE = "CREATE TABLE IF NOT EXISTS spent (day TEXT PRIMARY KEY, tokens INTEGER, usd REAL)"
_ADD = """INSERT INTO spent VALUES (?, ?, ?) ON CONFLICT (day)
DO UPDATE SET tokens = tokens + excluded.tokens, usd = usd + excluded.usd RETURNING tokens, usd"""


@dataclass(frozen=True, slots=True)
class Amount:
    """Tokens, input and output, and what of their price is known."""

    tokens: int = 0
    usd: float = 0.0

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.tokens + other.tokens, self.usd + other.usd)

    def __sub__(self, other: Amount) -> Amount:
        return Amount(self.tokens - other.tokens, self.usd - other.usd)


class DailyBudget:
    """Refuses turns when the day's tokens or money are used up; a new day begins at 00:00 UTC.

    A turn reserves the most that it may use, and at its end books what it used instead.

    Args:
        path: The database; None for memory. One that cannot be written is replaced by memory, with a warning.
        most: What guests may use in a day.
        clock: Seconds since the epoch.
    """

    def __init__(self, path: Path | None, most: Amount, clock: Callable[[], float]) -> None:
        self._most, self._clock = most, clock
        self._reserved = Amount()
        try:
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
            self._database = _opened(str(path or ":memory:"))
            self.spent()
        except (OSError, sqlite3.Error) as error:
            self._in_memory(error)

    def spent(self, more: Amount = Amount()) -> Amount:
        """What guests of all apps have used today, with `more` added to it."""
        day = datetime.fromtimestamp(self._clock(), UTC).date().isoformat()
        try:
            row = self._database.execute(_ADD, (day, more.tokens, more.usd)).fetchone()
        except sqlite3.Error as error:
            self._in_memory(error)
            return self.spent(more)
        return Amount(*row)

    def check(self) -> None:
        """Refuse a turn for which nothing is left.

        Raises:
            BudgetSpent: Until the end of the day.
            RateLimited: The rest is reserved for turns that run now.
        """
        spent, most = self.spent(), self._most
        if spent.tokens >= most.tokens or spent.usd >= most.usd:
            now = datetime.fromtimestamp(self._clock(), UTC)
            midnight = now.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
            sentence = "Today's budget for guests is used up. It starts anew at 00:00 UTC."
            limit = "guests_daily_usd" if spent.usd >= most.usd else "guests_daily_tokens"
            raise BudgetSpent(sentence, retry_after_s=(midnight - now).total_seconds(), limit=limit)
        held = spent + self._reserved
        if held.tokens >= most.tokens or (self._reserved.usd > 0 and held.usd >= most.usd):
            raise RateLimited(
                "The questions that are being answered may use the rest of today's budget. "
                "Try again when they have ended.",
                retry_after_s=IN_USE_RETRY_S,
                limit="guests_daily_tokens",
            )

    def reserve(self, amount: Amount) -> None:
        """A turn starts, which may use `amount`."""
        self._reserved += amount

    def book(self, reserved: Amount, used: Amount) -> None:
        """The turn has ended and used `used`."""
        self._reserved -= reserved
        self.spent(used)

    def close(self) -> None:
        self._database.close()

    def _in_memory(self, error: Exception) -> None:
        log.warning("the day's spending of guests cannot be kept, so a restart forgets it: %s", error)
        self._database = _opened(":memory:")


def _opened(path: str) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=1, isolation_level=None, check_same_thread=False)
    database.execute("PRAGMA synchronous = OFF")  # only a crash of the machine may lose the last turns
    database.execute(_TABLE)
    return database
