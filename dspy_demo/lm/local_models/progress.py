"""How far a download has come."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from typing import Literal

from dspy_demo.lm.local_models.amounts import size_text, speed_text, time_left_text

#: The speed is that of the last seconds: an average over all would hide that a network got slow.
WINDOW_S = 5.0
FIRST_SPEED_S = 0.5

Phase = Literal["connecting", "downloading", "checking"]


@dataclass(frozen=True, slots=True)
class Progress:
    """One look at a running download. `bytes_per_s` and `seconds_left` are None until they can be told."""

    phase: Phase
    received_bytes: int
    total_bytes: int
    bytes_per_s: float | None = None

    @property
    def fraction(self) -> float:
        return min(1.0, self.received_bytes / self.total_bytes) if self.total_bytes else 0.0

    @property
    def percent(self) -> int:
        return int(self.fraction * 100)  # 100 is for what is complete

    @property
    def seconds_left(self) -> float | None:
        return (self.total_bytes - self.received_bytes) / self.bytes_per_s if self.bytes_per_s else None

    @property
    def words(self) -> list[str]:
        """``206 MB of 491 MB``, ``5.2 MB/s``, ``55 s left``; the last two as soon as they can be told."""
        words = [f"{size_text(self.received_bytes)} of {size_text(self.total_bytes)}"]
        if self.bytes_per_s is not None:
            words.append(speed_text(self.bytes_per_s))
        if self.seconds_left is not None:
            words.append(time_left_text(self.seconds_left))
        return words


class Speedometer:
    """Bytes a second over the last `WINDOW_S` seconds."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def read(self, received_bytes: int, now_s: float | None = None) -> float | None:
        """The speed, when so many bytes are here now; None at first."""
        now_s = time.monotonic() if now_s is None else now_s
        self._seen.append((now_s, received_bytes))
        while len(self._seen) > 2 and now_s - self._seen[1][0] > WINDOW_S:
            self._seen.popleft()
        then_s, before_bytes = self._seen[0]
        if now_s - then_s < FIRST_SPEED_S:
            return None
        return max(0.0, (received_bytes - before_bytes) / (now_s - then_s))  # begun anew: less is here
