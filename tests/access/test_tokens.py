"""Session cookies, the owner's link, and the bound on guesses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspy_demo.access.tokens import SESSION_S, Attempts, OwnerLink, Sessions, same


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("role", ["owner", "guest"])
def test_a_session_says_who_it_is_for(role: str) -> None:
    sessions = Sessions()
    cookie = sessions.issue(role)  # type: ignore[arg-type]
    visitor = sessions.visitor(cookie)
    assert visitor is not None
    assert visitor.role == role
    assert visitor.name not in cookie  # the name may be logged, the cookie may not
    assert sessions.visitor(cookie) == visitor


def test_two_browsers_are_two_visitors() -> None:
    sessions = Sessions()
    assert sessions.visitor(sessions.issue("guest")) != sessions.visitor(sessions.issue("guest"))


def test_a_guest_cannot_write_owner_on_a_cookie() -> None:
    sessions = Sessions()
    assert sessions.visitor(sessions.issue("guest").replace("guest", "owner")) is None


@given(st.text())
def test_nothing_else_is_a_session(text: str) -> None:
    assert Sessions("seed").visitor(text) is None


def test_a_session_ends() -> None:
    clock = Clock()
    sessions = Sessions(clock=clock)
    cookie = sessions.issue("guest")
    clock.now += SESSION_S - 120
    assert sessions.visitor(cookie)
    clock.now += 121
    assert sessions.visitor(cookie) is None


def test_only_the_same_seed_keeps_sessions_over_a_restart() -> None:
    cookie = Sessions("seed").issue("owner")
    assert Sessions("seed").visitor(cookie)
    assert Sessions("other").visitor(cookie) is None
    assert Sessions().visitor(Sessions().issue("owner")) is None


def test_the_owners_link_works_once() -> None:
    used: list[str] = []
    link = OwnerLink(lambda: used.append("again"))
    first = link.code
    assert not link.redeem(first[:-1])
    assert link.redeem(first)
    assert not link.redeem(first)
    assert used == ["again"]
    assert link.redeem(link.code)


def test_guesses_run_out_and_come_back() -> None:
    clock = Clock()
    attempts = Attempts(most=3, within_s=60, clock=clock)
    for _ in range(3):
        assert not attempts.exhausted
        attempts.failed()
    assert attempts.exhausted
    clock.now += 61
    assert not attempts.exhausted


@given(st.text(), st.text())
def test_secrets_are_compared_as_wholes(one: str, other: str) -> None:
    assert same(one, other) is (one == other)
