"""What guests spent in one day, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Self

from pydantic import TypeAdapter

#: Guests whose share is kept; beyond that whoever used least is forgotten, while the total stays right.
GUESTS_MAX = 5_000


@dataclass(frozen=True, slots=True)
class Amount:
    """Tokens, input and output, and what of their price is known."""

    tokens: int = 0
    usd: float = 0.0

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.tokens + other.tokens, self.usd + other.usd)

    def __sub__(self, other: Amount) -> Amount:
        return Amount(self.tokens - other.tokens, self.usd - other.usd)


@dataclass(frozen=True, slots=True)
class Spending:
    """One day's sums.

    Attributes:
        day: The day in UTC, as ``2026-11-25``.
        guests: Tokens by a guest's name.
    """

    day: str
    total: Amount = Amount()
    guests: Mapping[str, int] = field(default_factory=dict)

    def adding(self, guest: str, amount: Amount) -> Self:
        """With what a turn of `guest` used."""
        tokens = self.guests.get(guest, 0) + amount.tokens
        return replace(self, total=self.total + amount, guests=_most({**self.guests, guest: tokens}))

    def merged(self, other: Spending) -> Spending:
        """Both together; of two days only the later one counts."""
        if self.day != other.day:
            return max(self, other, key=lambda spending: spending.day)
        names = {**self.guests, **other.guests}
        sums = {name: self.guests.get(name, 0) + other.guests.get(name, 0) for name in names}
        return Spending(self.day, self.total + other.total, _most(sums))

    def to_json(self) -> bytes:
        return _SPENDING.dump_json(self)

    @staticmethod
    def from_json(data: bytes | str) -> Spending:
        """The value that `to_json` wrote.

        Raises:
            ValueError: It is something else.
        """
        found: Any = _SPENDING.validate_json(data)
        datetime.fromisoformat(found.day)
        return Spending(found.day, found.total, _most(dict(found.guests)))


_SPENDING = TypeAdapter(Spending)


def _most(guests: dict[str, int]) -> dict[str, int]:
    if len(guests) <= GUESTS_MAX:
        return guests
    return dict(sorted(guests.items(), key=lambda item: item[1], reverse=True)[:GUESTS_MAX])


def day_of(epoch_s: float) -> str:
    """The day in UTC: the same for guests everywhere, and never 23 or 25 hours long."""
    return datetime.fromtimestamp(epoch_s, UTC).date().isoformat()


def seconds_left(day: str, epoch_s: float) -> float:
    """Seconds until the end of `day`."""
    end = datetime.fromisoformat(day).replace(tzinfo=UTC) + timedelta(days=1)
    return max(0.0, end.timestamp() - epoch_s)
