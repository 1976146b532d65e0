"""That each scenario of the benchmarks runs and yields sane numbers; what they are is not asserted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.load import Ages
from benchmarks.report import Row, table

ROOT = Path(__file__).parent.parent


@pytest.mark.integration
@pytest.mark.parametrize("name", ["log_version", "tracing", "streams", "local_model"])
def test_a_scenario_runs(name: str, tmp_path: Path) -> None:
    result = tmp_path / "result.json"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", name, "--quick", "--json", str(result)],
        cwd=ROOT,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(result.read_text())
    assert found["machine"]["dspy"]
    rows = found[name]["rows"]
    assert rows
    assert all(0 <= row["ours"] < 1e6 for row in rows)
    assert all(row["what"] in done.stdout for row in rows)
    if name == "log_version":
        assert found[name]["detail"]["lm_calls"] == 0
        assert found[name]["detail"]["tutorial_lm_calls"] > 0
    if name == "streams":
        assert set(found[name]["detail"]["peers"]) == {"ours", "relay"}


@pytest.mark.integration
def test_thirty_visitors_leave_nothing(tmp_path: Path) -> None:
    """The short form of the soak: nothing is left open. What grows slowly only the long form can tell."""
    result = tmp_path / "result.json"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "soak", "--quick", "--json", str(result)],
        cwd=ROOT,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=230,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(result.read_text())["soak"]["detail"]
    print(json.dumps(found, indent=2))
    assert found["upstream_calls"] > 0
    assert found["what_visitors_did"]["tabs"] > 0
    assert found["upstream_streams_left"] == 0
    # The heartbeat of a page that was closed sleeps on for up to 15 s (gradio 6.31).
    before, after = (
        {k: n for k, n in found["tasks"][when].items() if k != "sleep"} for when in ("before", "after")
    )
    assert sum(after.values()) <= sum(before.values()) + 3
    for process in ("app", "server"):
        before, after = found["before"][process], found["after"][process]
        assert after["children"] == before["children"] == 0
        assert after["descriptors"] <= before["descriptors"] + 40  # pools keep idle connections


def test_a_token_counts_once_wherever_it_is_cut_and_however_often_it_is_repeated() -> None:
    ages = Ages()
    for piece in (b"data: x100000x x1000", b"01x\n", b'{"whole": "x100000x x100001x"}', b" x100002x"):
        ages.hear(piece)
    assert ages.tokens == 3


def test_the_table_says_which_targets_are_met() -> None:
    rows = [
        Row("lag", "ms", 2.0, "relay", 1.0, ratio_max=3),
        Row("calls", "s", 2.0, most=1.4),
        Row("memory", "MB", 2.0),
    ]
    assert [row.met for row in rows] == [True, False, None]
    lines = table(rows).splitlines()
    assert lines[2] == "| lag | 2 ms | relay: 1 ms | 2.00 | ≤ 3× ✓ |"
    assert lines[3].endswith("| ≤ 1.4 s missed |")
