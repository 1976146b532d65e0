"""That the benchmarks run and yield sane numbers; what they are is not asserted."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.__main__ import SCENARIOS
from benchmarks.load import Heard
from benchmarks.report import Row, table

ROOT = Path(__file__).parent.parent


@pytest.mark.integration
def test_scenarios_run(tmp_path: Path) -> None:
    """The short form of the soak also shows that visitors who stop, reload and hang up leave nothing open."""
    result = tmp_path / "result.json"
    command = [sys.executable, "-m", "benchmarks", "streams", "soak", "--quick", "--json", str(result)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    found = json.loads(result.read_text())
    assert found["machine"]["dspy"]
    rows = {row["what"]: row for row in found["rows"]}
    assert all(0 <= row["ours"] < 1e6 and what in done.stdout for what, row in rows.items())
    assert rows["soak: upstream streams left"]["ours"] == 0
    assert rows["soak: processes, at the end"]["ours"] == 1
    descriptors = rows["soak: open descriptors, at the end"]
    assert descriptors["ours"] <= descriptors["theirs"] + 40  # pools keep idle connections


def test_every_scenario_can_be_measured_and_is_named_in_the_help() -> None:
    help_text = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--help"], cwd=ROOT, capture_output=True, text=True
    ).stdout
    for name in SCENARIOS:
        assert callable(importlib.import_module(f"benchmarks.{name}").measure)
        assert name in help_text


def test_a_token_counts_once_wherever_it_is_cut_and_however_often_it_is_repeated() -> None:
    heard = Heard()
    for piece in (b"data: x100000x x1000", b"01x\n", b'{"whole": "x100000x x100001x"}', b" x100002x"):
        heard.hear(piece)
    assert heard.tokens == 3


def test_the_table_says_which_limits_are_kept() -> None:
    rows = [Row("lag", "ms", 2.0, "tutorial", 1.0, ratio_max=3), Row("calls", "s", 2.0, most=1.4)]
    assert [row.met for row in rows] == [True, False]
    lines = table(rows).splitlines()
    assert lines[2] == "| lag | 2 ms | tutorial: 1 ms | 2.00 | ≤ 3× ✓ |"
    assert lines[3].endswith("| ≤ 1.4 s missed |")
