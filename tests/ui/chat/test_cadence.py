"""How often answers are drawn, by how busy the core is."""

from __future__ import annotations

from dspy_demo.ui.chat.cadence import FORGET_S, LOOK_S, SLOWEST_S, Cadence


class Core:
    """A core whose clock and use a test sets."""

    def __init__(self, fastest_s: float = 0.1) -> None:
        self.now_s = self.used_s = 0.0
        self.cadence = Cadence(fastest_s, lambda: self.now_s, lambda: self.used_s)

    def after(self, seconds: float, share: float) -> float:
        """The pause after so long at this share of the core."""
        self.now_s += seconds
        self.used_s += seconds * share
        return self.cadence.pause_s()


def test_while_there_is_time_the_pause_is_the_shortest() -> None:
    core = Core()
    assert [core.after(LOOK_S, share) for share in (0.0, 0.5, 0.9)] == [0.1, 0.1, 0.1]


def test_a_full_core_draws_less_and_less_often_up_to_a_bound() -> None:
    core = Core()
    pauses = [core.after(LOOK_S, 1.0) for _ in range(20)]
    assert pauses == sorted(pauses)
    assert pauses[0] > 0.1
    assert pauses[-1] == SLOWEST_S


def test_it_gets_faster_again() -> None:
    core = Core()
    for _ in range(20):
        core.after(LOOK_S, 1.0)
    pauses = [core.after(LOOK_S, 0.8) for _ in range(20)]
    assert pauses == sorted(pauses, reverse=True)
    assert pauses[-1] == 0.1


def test_a_moment_of_full_use_changes_nothing() -> None:
    core = Core()
    assert core.after(LOOK_S / 5, 1.0) == 0.1
    assert core.after(LOOK_S, 0.5) == 0.1


def test_what_was_long_ago_is_forgotten() -> None:
    core = Core()
    for _ in range(20):
        core.after(LOOK_S, 1.0)
    assert core.after(FORGET_S, 1.0) == 0.1


def test_a_pause_that_the_owner_wants_longer_stays() -> None:
    core = Core(fastest_s=1.0)
    assert [core.after(LOOK_S, share) for share in (0.0, 1.0, 1.0)] == [1.0, 1.0, 1.0]
