"""How many requests of guests are open at a time: a stream to a page is one for as long as it lasts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from dspy_demo.errors import TooManyOpen
from dspy_demo.events import Visitor
from dspy_demo.settings import Settings


class OpenRequests:
    """Counts them by guest and in total. The owner's are not counted: guests cannot use up their room."""

    def __init__(self, settings: Settings) -> None:
        self._per_guest = settings.guest_open_requests
        self._in_total = settings.guests_open_requests
        self._open: Counter[str] = Counter()  # never holds a zero, or a stranger would cost memory

    @contextmanager
    def place(self, visitor: Visitor | None) -> Iterator[None]:
        """Room for one request, until the block is left.

        Raises:
            TooManyOpen: There is none.
        """
        if visitor is None or visitor.role == "owner":
            yield
            return
        if self._open.get(visitor.name, 0) >= self._per_guest:
            raise TooManyOpen(
                "You have too many pages or requests open. Close some, then try again.",
                limit="guest_open_requests",
            )
        if self._open.total() >= self._in_total:
            raise TooManyOpen(limit="guests_open_requests")
        self._open[visitor.name] += 1
        try:
            yield
        finally:
            self._open[visitor.name] -= 1
            if not self._open[visitor.name]:
                del self._open[visitor.name]
