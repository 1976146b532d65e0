"""How far, how fast, how long still: as values and as words."""

from __future__ import annotations

import io

import pytest

from dspy_demo.lm.local_models.amounts import size_text, speed_text, time_left_text
from dspy_demo.lm.local_models.progress import Progress, Speedometer
from dspy_demo.lm.local_models.progress_bar import ProgressBar, line_of


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (491_400_032, "491 MB"),
        (1_117_320_736, "1.12 GB"),
        (3.2e6, "3.20 MB"),
    ],
)
def test_sizes(size: int, text: str) -> None:
    assert size_text(size) == text


def test_speeds_and_times() -> None:
    assert [speed_text(speed) for speed in (0, 310_000, 5_230_000)] == ["0 kB/s", "310 kB/s", "5.2 MB/s"]
    times = [time_left_text(seconds) for seconds in (0.2, 40, 59.4, 170, 4_800)]
    assert times == ["1 s left", "40 s left", "59 s left", "3 min left", "1 h 20 min left"]


def test_the_speed_is_that_of_the_last_seconds() -> None:
    speed = Speedometer()
    assert speed.read(0, 0.0) is None
    assert speed.read(100, 1.0) == 100
    for second in range(2, 20):
        last = speed.read(100, float(second))  # nothing comes any more
    assert last == 0
    assert speed.read(0, 20.0) == 0  # begun anew


def test_what_is_not_complete_is_not_called_100_percent() -> None:
    almost = Progress("downloading", 999_999, 1_000_000, 0.0)
    assert (almost.percent, almost.seconds_left) == (99, None)
    assert Progress("downloading", 250, 1000, 50.0).seconds_left == 15


@pytest.mark.parametrize("width", [20, 60, 100])
def test_the_line_fits_the_terminal(width: int) -> None:
    line = line_of(Progress("downloading", 206_000_000, 491_000_000, 5.2e6), width)
    assert len(line) <= width and "41 %" in line
    assert ("█" in line) is (width > 20)


def test_a_log_gets_few_lines_and_no_control_characters() -> None:
    out = io.StringIO()
    with ProgressBar(out) as bar:
        bar.show(Progress("connecting", 0, 100))
        for received in range(100):
            bar.show(Progress("downloading", received, 100))
        bar.show(Progress("checking", 100, 100))
    lines = out.getvalue().splitlines()
    assert len(lines) == 3 and "\r" not in out.getvalue() and "\x1b" not in out.getvalue()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_has_one_line_that_is_drawn_over() -> None:
    out = Terminal()
    with ProgressBar(out) as bar:
        bar.show(Progress("connecting", 0, 100))
        bar.show(Progress("downloading", 50, 100))
    assert out.getvalue().count("\n") == 1 and out.getvalue().count("\r") == 2
