"""The day's budget of all guests of a data folder: whoever drops the cookie is a new guest."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from dspy_demo.errors import BudgetSpent, RateLimited
from dspy_demo.settings import Settings

log = logging.getLogger(__name__)

DAY_S = 24 * 3600
_TABLE = "CREATE TABLE IF NOT EXISTS spent (day TEXT PRIMARY KEY, tokens INTEGER, usd REAL)"
_ADD = """INSERT INTO spent VALUES (?, ?, ?) ON CONFLICT (day)
DO UPDATE SET tokens = tokens + excluded.tokens, usd = usd + excluded.usd RETURNING tokens, usd"""


class DailyBudget:
    """Refuses turns when the day's tokens or money are used up; a new day begins at 00:00 UTC."""

    def __init__(self, path: Path | None, settings: Settings, clock: Callable[[], float]) -> None:
        self._most_tokens, self._most_usd = settings.guests_daily_tokens, settings.guests_daily_usd
        self._clock = clock
        self.reserved = 0  # tokens that the running turns may use
        try:
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
            self._database = _opened(str(path or ":memory:"))
            self.spent()
        except (sqlite3.Error, OSError) as error:
            self._in_memory(error)

    def spent(self, more_tokens: int = 0, more_usd: float = 0.0) -> tuple[int, float]:
        """Tokens and US dollars that guests of all apps have used today, with more added to them."""
        day = datetime.fromtimestamp(self._clock(), UTC).date().isoformat()
        try:
            row: tuple[int, float] = self._database.execute(_ADD, (day, more_tokens, more_usd)).fetchone()
        except sqlite3.Error as error:
            self._in_memory(error)
            return self.spent(more_tokens, more_usd)
        return row

    def check(self) -> None:
        """Refuse a turn with `BudgetSpent`, or with `RateLimited` where running turns may use the rest."""
        tokens, usd = self.spent()
        if tokens >= self._most_tokens or usd >= self._most_usd:
            limit = "guests_daily_usd" if usd >= self._most_usd else "guests_daily_tokens"
            raise BudgetSpent(retry_after_s=DAY_S - self._clock() % DAY_S, limit=limit)
        if tokens + self.reserved >= self._most_tokens:
            sentence = "Running answers may use the rest of today's budget for guests. Try again in a moment."
            raise RateLimited(sentence, retry_after_s=10, limit="guests_daily_tokens")

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
