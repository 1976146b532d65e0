"""A download's progress on a terminal: one line that is drawn over; in a log file a line now and then."""

from __future__ import annotations

import shutil
import time
from typing import Self, TextIO

from dspy_demo.lm.local_models.progress import Progress

#: Seconds between two drawings on a terminal, and between two lines of a log.
REDRAW_S, LINE_S = 0.1, 10.0


class ProgressBar:
    """Draws on `out` as long as it is open."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._terminal = out.isatty()
        self._drawn_s = 0.0
        self._phase = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._terminal and self._phase:
            self._out.write("\n")

    def show(self, progress: Progress) -> None:
        """Draw this progress, unless the last drawing is fresh."""
        now_s = time.monotonic()
        fresh = now_s - self._drawn_s < (REDRAW_S if self._terminal else LINE_S)
        if fresh and progress.phase == self._phase:
            return
        self._drawn_s, self._phase = now_s, progress.phase
        line = line_of(progress, shutil.get_terminal_size().columns - 1)
        self._out.write(f"\r{line}\x1b[K" if self._terminal else line + "\n")
        self._out.flush()


def line_of(progress: Progress, width: int) -> str:
    """The progress in at most `width` columns; the bar takes what the words leave."""
    if progress.phase == "connecting":
        return "Connecting…"[:width]
    if progress.phase == "checking":
        return "Comparing the checksum…"[:width]
    text = f"{progress.percent:3d} %  " + "  ".join(progress.words)
    room = min(40, width - len(text) - 2)
    if room < 8:
        return text[:width]
    filled = int(room * progress.fraction)
    return f"{'█' * filled}{'░' * (room - filled)}  {text}"
