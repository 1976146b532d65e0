"""Session cookies, the owner's link, and the bound on guesses."""

from __future__ import annotations

import stat
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from itsdangerous import TimestampSigner

from dspy_demo.errors import TooManyAttempts
from dspy_demo.web.tokens import (
    KEY_BYTES,
    SESSION_S,
    Attempts,
    OwnerLink,
    Sessions,
    same,
    stored_key,
)


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


KEY = b"k" * KEY_BYTES


@pytest.mark.parametrize("role", ["owner", "guest"])
def test_a_session_says_who_it_is_for(role: str) -> None:
    sessions = Sessions(KEY)
    cookie = sessions.issue(role)  # type: ignore[arg-type]
    visitor = sessions.visitor(cookie)
    assert visitor is not None
    assert visitor.role == role
    assert visitor.name not in cookie  # the name may be logged, the cookie may not
    assert sessions.visitor(cookie) == visitor


def test_two_browsers_are_two_visitors() -> None:
    sessions = Sessions(KEY)
    assert sessions.visitor(sessions.issue("guest")) != sessions.visitor(sessions.issue("guest"))


def test_a_guest_cannot_write_owner_on_a_cookie() -> None:
    sessions = Sessions(KEY)
    assert sessions.visitor(sessions.issue("guest").replace("guest", "owner")) is None


@given(st.text())
def test_nothing_else_is_a_session(text: str) -> None:
    assert Sessions(KEY).visitor(text) is None


def test_a_session_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = Sessions(KEY)
    cookie = sessions.issue("guest")
    now = int(time.time())
    for later_s, ended in ((SESSION_S - 60, False), (SESSION_S + 60, True)):
        monkeypatch.setattr(TimestampSigner, "get_timestamp", lambda _, at=now + later_s: at)
        assert (sessions.visitor(cookie) is None) is ended


def test_only_the_same_key_keeps_sessions_over_a_restart() -> None:
    cookie = Sessions(KEY).issue("owner")
    assert Sessions(KEY).visitor(cookie)
    assert Sessions(KEY + b"other password").visitor(cookie) is None


def test_the_key_is_kept_for_its_user_alone(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    key = stored_key(folder)
    (kept,) = folder.iterdir()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert stored_key(folder) == key
    assert stored_key(tmp_path / "other") != key
    nowhere = tmp_path / "file"
    nowhere.touch()
    assert stored_key(nowhere) != stored_key(nowhere)


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
        assert not attempts.fits("wrong", "right")
    with pytest.raises(TooManyAttempts):
        attempts.fits("right", "right")
    clock.now += 61
    assert attempts.fits("right", "right")


@given(st.text(), st.text())
def test_secrets_are_compared_as_wholes(one: str, other: str) -> None:
    assert same(one, other) is (one == other)
