"""Turns per minute, with the time given."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspy_demo.errors import RateLimited
from dspy_demo.guests.rate import WINDOW_S, RateWindow


def test_a_guest_is_told_when_to_come_back() -> None:
    window = RateWindow(per_guest=2, in_total=10)
    window.count("a", 100.0)
    window.count("a", 110.0)
    with pytest.raises(RateLimited, match=r"faster than 2 times a minute.*Try again in 40 s") as caught:
        window.check("a", 120.0)
    assert caught.value.retry_after_s == 40
    window.check("b", 120.0)
    window.check("a", 160.0)


def test_all_guests_together_are_bounded() -> None:
    window = RateWindow(per_guest=2, in_total=3)
    for guest in "abc":
        window.count(guest, 0.0)
    with pytest.raises(RateLimited, match="Many people"):
        window.check("d", 59.9)
    window.check("d", 60.0)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 20)), max_size=200))
def test_no_minute_has_more_than_the_limits_and_the_memory_is_bounded(asked: list[tuple[str, int]]) -> None:
    window, now_s, begun = RateWindow(per_guest=2, in_total=4), 0.0, []  # whole seconds: no rounding
    for guest, pause_s in asked:
        now_s += pause_s
        try:
            window.check(guest, now_s)
        except RateLimited as error:
            assert error.retry_after_s is not None
            window.check(guest, now_s + error.retry_after_s)  # true to its word
            now_s += error.retry_after_s
        window.count(guest, now_s)
        begun.append((guest, now_s))
        recent = [(name, at_s) for name, at_s in begun if at_s > now_s - WINDOW_S]
        assert len(recent) <= 4
        assert sum(name == guest for name, _ in recent) <= 2
        assert len(window._begun) <= 4
