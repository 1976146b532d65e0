"""The line: bounded, never idle while somebody could run, and fair between guests."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from dspy_demo.errors import LineFull
from dspy_demo.guests.line import Line, Ticket

GUESTS = st.sampled_from("abcde")


def line(places: int = 1, places_per_guest: int = 3, waiting_max: int = 100) -> Line:
    return Line(places=places, places_per_guest=places_per_guest, waiting_max=waiting_max)


def finish(line: Line, ticket: Ticket) -> None:
    assert ticket.state == "running"
    line.leave(ticket)


def test_guests_take_turns() -> None:
    made = line()
    a1, a2, a3 = (made.enter("a") for _ in range(3))
    b1, b2 = (made.enter("b") for _ in range(2))
    assert made.order() == [a2, b1, a3, b2]
    assert [made.position(ticket) for ticket in (a2, b1, a3, b2)] == [1, 2, 3, 4]
    started = [a1]
    while started[-1] is not b2:
        made.leave(started[-1])
        started.append(next(t for t in (a2, a3, b1, b2) if t.state == "running"))
    assert started == [a1, a2, b1, a3, b2]


def test_a_guest_at_the_limit_of_their_own_is_passed_over_and_keeps_the_place() -> None:
    made = line(places=3, places_per_guest=2)
    a1, a2 = made.enter("a"), made.enter("a")
    b1 = made.enter("b")
    a3, c1, c2 = made.enter("a"), made.enter("c"), made.enter("c")
    finish(made, b1)
    assert (a3.state, c1.state) == ("waiting", "running")
    assert made.held_up(a3)
    assert made.position(a3) == 1
    finish(made, a2)
    assert (a3.state, c2.state) == ("running", "waiting")
    finish(made, a1)
    assert c2.state == "running"


def test_leaving_the_line_moves_the_others_up_and_tells_them() -> None:
    made = line()
    made.enter("a")
    waiting = [made.enter(guest) for guest in "bcd"]
    for ticket in waiting:
        ticket.changed.clear()
    made.leave(waiting[0])
    assert waiting[0].state == "left"
    assert [made.position(ticket) for ticket in waiting[1:]] == [1, 2]
    assert all(ticket.changed.is_set() for ticket in waiting)


def test_a_full_line_and_a_full_part_of_it() -> None:
    made = line(places_per_guest=1, waiting_max=2)
    made.enter("a")
    made.enter("a")
    with pytest.raises(LineFull, match="Your earlier questions"):
        made.enter("a")
    made.enter("b")
    with pytest.raises(LineFull, match="the line is full"):
        made.check("c")
    assert made.waiting == 2


def test_without_a_line_a_turn_runs_or_is_refused() -> None:
    made = line(places=2, waiting_max=0)
    assert [made.enter(guest).state for guest in "ab"] == ["running"] * 2
    with pytest.raises(LineFull):
        made.enter("c")


@given(st.lists(GUESTS, max_size=60), st.integers(1, 4), st.integers(1, 4))
def test_the_first_turn_of_a_newcomer_waits_for_one_turn_of_each_guest_before(
    guests: list[str], places: int, per_guest: int
) -> None:
    made = line(places, per_guest)
    running: list[Ticket] = []
    for guest in guests:
        try:
            running.append(made.enter(guest))
        except LineFull:
            continue
    try:
        newcomer = made.enter("new")
    except LineFull:
        pytest.fail("a newcomer has a part of the line of their own")
    guests_before = {ticket.guest for ticket in made.order()} - {"new"}
    started_before: list[Ticket] = []
    while newcomer.state == "waiting":
        before = set(made.order())
        made.leave(next(ticket for ticket in running if ticket.state == "running"))
        started_before += [ticket for ticket in before - set(made.order()) if ticket is not newcomer]
    assert len(started_before) <= len(guests_before)
    assert len({ticket.guest for ticket in started_before}) == len(started_before)


class AnyOrder(RuleBasedStateMachine):
    """Entering, finishing and leaving the line in any order."""

    @initialize(places=st.integers(1, 4), per_guest=st.integers(1, 3), waiting_max=st.integers(0, 6))
    def open(self, places: int, per_guest: int, waiting_max: int) -> None:
        self.places, self.per_guest, self.waiting_max = places, per_guest, waiting_max
        self.line = line(places, per_guest, waiting_max)
        self.tickets: list[Ticket] = []

    def having(self, state: str) -> list[Ticket]:
        return [ticket for ticket in self.tickets if ticket.state == state]

    @rule(guest=GUESTS)
    def enter(self, guest: str) -> None:
        waiting = self.having("waiting")
        own = [ticket for ticket in waiting if ticket.guest == guest]
        try:
            self.tickets.append(self.line.enter(guest))
        except LineFull:
            assert len(waiting) == self.waiting_max or len(own) == self.per_guest

    @precondition(lambda self: self.tickets)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(self.tickets))
        self.line.leave(ticket)
        self.line.leave(ticket)
        assert ticket.state == "left"

    @invariant()
    def bounds_hold(self) -> None:
        running, waiting = self.having("running"), self.having("waiting")
        assert self.line.running == len(running) <= self.places
        assert self.line.waiting == len(waiting) <= self.waiting_max
        for tickets in (running, waiting):
            for guest in "abcde":
                assert sum(ticket.guest == guest for ticket in tickets) <= self.per_guest
        assert sorted(map(id, self.line.order())) == sorted(map(id, waiting))

    @invariant()
    def nobody_waits_who_could_run(self) -> None:
        running = self.having("running")
        if len(running) < self.places:
            for ticket in self.having("waiting"):
                assert sum(other.guest == ticket.guest for other in running) == self.per_guest


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=40, stateful_step_count=30)
