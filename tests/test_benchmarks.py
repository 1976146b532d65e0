"""That each scenario of the benchmarks runs and yields sane numbers; what they are is not asserted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.integration
@pytest.mark.parametrize("name", ["log_version", "tracing"])  # what the others start is tested as it is
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
    assert 0 < found[name]["ratio"] < 50
    assert found["machine"]["dspy"]
    if name == "log_version":
        assert found[name]["lm_calls"] == 0
        assert found[name]["tutorial_lm_calls"] > 0
