"""The line before the places in which guests' turns run: bounded, and fair between guests."""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict, deque
from dataclasses import dataclass, field
from itertools import chain, zip_longest
from typing import Literal

from dspy_demo.errors import LineFull


@dataclass(eq=False, slots=True)
class Ticket:
    """One turn's place: in line, then running, then left.

    Attributes:
        changed: Set whenever its state or its position may have changed.
    """

    guest: str
    state: Literal["waiting", "running", "left"] = "waiting"
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class Line:
    """Who runs and who waits. Guests take turns, so that none of them fills the line.

    A free place goes to the guest who has waited longest since their last turn began; further turns of
    theirs wait for another round. So the first turn of a newcomer starts after at most one turn of each guest
    who was waiting already. A guest at the limit of their own is passed over and keeps their place.

    Args:
        places: Turns that may run.
        places_per_guest: Turns of one guest that may run, and as many more that may wait.
        waiting_max: Turns that may wait.
    """

    def __init__(self, *, places: int, places_per_guest: int, waiting_max: int) -> None:
        self._places = places
        self._per_guest = places_per_guest
        self._waiting_max = waiting_max
        self._waiting: OrderedDict[str, deque[Ticket]] = OrderedDict()  # in the order of the next round
        self._running: Counter[str] = Counter()

    @property
    def running(self) -> int:
        return self._running.total()

    @property
    def waiting(self) -> int:
        return sum(len(tickets) for tickets in self._waiting.values())

    def check(self, guest: str) -> None:
        """Refuse a turn that can neither run nor wait.

        Raises:
            LineFull: The line, or the guest's part of it, is full.
        """
        if self._has_room(guest):
            return
        own = len(self._waiting.get(guest, ()))
        if own >= self._per_guest:
            raise LineFull(
                "Your earlier questions are still waiting. "
                "Send this one when they are answered, or stop one.",
                limit="guest_concurrent_turns",
            )
        if self.waiting >= self._waiting_max:
            raise LineFull()

    def enter(self, guest: str) -> Ticket:
        """A ticket that is running already where there is room.

        Raises:
            LineFull: See `check`.
        """
        self.check(guest)
        ticket = Ticket(guest)
        self._waiting.setdefault(guest, deque()).append(ticket)
        self._move_up()
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """Give the place back, in line or running. Safe to call twice."""
        if ticket.state == "running":
            self._running[ticket.guest] -= 1
            self._running += Counter()  # drops the zeros
        elif ticket.state == "waiting":
            tickets = self._waiting[ticket.guest]
            tickets.remove(ticket)
            if not tickets:
                del self._waiting[ticket.guest]
        ticket.state = "left"
        ticket.changed.set()
        self._move_up()

    def position(self, ticket: Ticket) -> int:
        """How many turns start before this one, and one: 1 is next."""
        return self.order().index(ticket) + 1

    def held_up(self, ticket: Ticket) -> bool:
        """Whether it waits for another turn of the same guest, and not for the others."""
        return self._running[ticket.guest] >= self._per_guest

    def order(self) -> list[Ticket]:
        """Who waits, round by round."""
        rounds = zip_longest(*self._waiting.values())
        return [ticket for ticket in chain.from_iterable(rounds) if ticket is not None]

    def _has_room(self, guest: str) -> bool:
        return self.running < self._places and self._running[guest] < self._per_guest

    def _move_up(self) -> None:
        while (guest := next((name for name in self._waiting if self._has_room(name)), None)) is not None:
            tickets = self._waiting[guest]
            ticket = tickets.popleft()
            if tickets:
                self._waiting.move_to_end(guest)
            else:
                del self._waiting[guest]
            self._running[guest] += 1
            ticket.state = "running"
            ticket.changed.set()
        for ticket in chain.from_iterable(self._waiting.values()):
            ticket.changed.set()
