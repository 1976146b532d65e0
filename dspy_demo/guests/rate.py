"""Turns per minute, of one guest and of all."""

from __future__ import annotations

import math
from collections import deque

from dspy_demo.errors import RateLimited

WINDOW_S = 60.0


class RateWindow:
    """The turns that began within the last minute. It holds no more of them than all guests may begin.

    Args:
        per_guest: Turns of one guest in a minute.
        in_total: Turns of all guests in a minute.
        too_fast: How the sentence of a refusal begins.
    """

    def __init__(self, per_guest: int, in_total: int, too_fast: str = "You are asking faster than") -> None:
        self._too_fast = too_fast
        self._per_guest = per_guest
        self._in_total = in_total
        self._begun: deque[tuple[float, str]] = deque()

    def check(self, guest: str, now_s: float) -> None:
        """Refuse one turn too many.

        Raises:
            RateLimited: With the time after which there is room again.
        """
        while self._begun and self._begun[0][0] <= now_s - WINDOW_S:
            self._begun.popleft()
        own = [at_s for at_s, name in self._begun if name == guest]
        own_wait_s = total_wait_s = 0.0
        if len(own) >= self._per_guest:
            own_wait_s = own[-self._per_guest] + WINDOW_S - now_s
        if len(self._begun) >= self._in_total:
            total_wait_s = self._begun[-self._in_total][0] + WINDOW_S - now_s
        wait_s = max(own_wait_s, total_wait_s)
        if wait_s <= 0:
            return
        why, limit = "Many people are asking at the moment.", "guests_turns_per_minute"
        if own_wait_s == wait_s:
            limit = "guest_turns_per_minute"
            why = f"{self._too_fast} {self._per_guest} times a minute, which is the limit here."
        raise RateLimited(f"{why} Try again in {math.ceil(wait_s)} s.", retry_after_s=wait_s, limit=limit)

    def count(self, guest: str, now_s: float) -> None:
        """A turn of `guest` begins."""
        self._begun.append((now_s, guest))
