"""How often running answers are drawn: as often as is wanted, less while the event loop has no time left."""

from __future__ import annotations

import time
from collections.abc import Callable

Clock = Callable[[], float]

#: So long the use of the core is looked at before anything changes: garbage stops a thread for a moment.
LOOK_S = 0.5
#: After so long a time without a drawing nothing is known of now.
FORGET_S = 2.0
#: The share of one core up to which drawing gets faster, and from which it gets slower.
BUSY = 0.97
#: How much: a quarter for each look at a core that is full.
GAIN = 5.0
SLOWEST_S = 0.25


class Cadence:
    """The pause between two drawings of an answer; one object for all answers of a page.

    Drawing is the only part of a turn of which some can be left out. Where one core is not enough for all
    chats, each drawing delays the reading of the models, everybody's clicks and the other drawings.

    Args:
        fastest_s: The pause while there is time.
        clock: Seconds, monotonic.
        used: Seconds of CPU that the calling thread has used so far.
    """

    def __init__(
        self, fastest_s: float, clock: Clock = time.monotonic, used: Clock = time.thread_time
    ) -> None:
        self._fastest_s = self._pause_s = fastest_s
        self._clock, self._used = clock, used
        self._last = clock(), used()

    def pause_s(self) -> float:
        """Seconds until the next drawing. To be called in the event loop's thread."""
        now, (last, used_s) = self._clock(), self._last
        if now - last >= LOOK_S:
            self._last = now, self._used()
            share = (self._last[1] - used_s) / (now - last)
            known = now - last < FORGET_S
            wanted_s = self._pause_s * (1 + GAIN * (share - BUSY)) if known else self._fastest_s
            self._pause_s = max(self._fastest_s, min(wanted_s, SLOWEST_S))
        return self._pause_s
