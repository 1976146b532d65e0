"""That the benchmarks run and yield sane numbers; what they are is not asserted."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.integration
def test_scenarios_run(tmp_path):
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
