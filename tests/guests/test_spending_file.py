"""The day's spending on disk: shared, replaced in one step, and never a reason to fail."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspy_demo.guests.spending import Amount, Spending
from dspy_demo.guests.spending_file import NAME, SpendingFile

DAY = "2026-11-25"
ONE = Spending(DAY, Amount(3, 0.5), {"a": 3})


def test_what_was_added_is_read_again(data_dir: Path) -> None:
    file = SpendingFile(data_dir / "new folder")
    assert file.read() is None
    assert file.add(ONE) == ONE
    assert file.add(Spending(DAY, Amount(4), {"a": 1, "b": 3})) == Spending(
        DAY, Amount(7, 0.5), {"a": 4, "b": 3}
    )
    assert SpendingFile(data_dir / "new folder").read() == Spending(DAY, Amount(7, 0.5), {"a": 4, "b": 3})


def test_a_new_day_replaces_the_old_one_and_a_late_word_of_the_old_one_is_dropped(data_dir: Path) -> None:
    file = SpendingFile(data_dir)
    file.add(ONE)
    tomorrow = Spending("2026-11-26", Amount(1), {"b": 1})
    assert file.add(tomorrow) == tomorrow
    assert file.add(ONE) == tomorrow


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1]", b'{"day":"x"}', b'{"day":"2026-11-25","total":{"tokens":"many"}}', b"\xff"]
)
def test_a_broken_file_is_logged_counts_from_zero_and_is_mended(
    data_dir: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (data_dir / NAME).write_bytes(content)
    file = SpendingFile(data_dir)
    assert file.read() is None
    assert "cannot be read" in caplog.text
    file.add(ONE)
    assert file.read() == ONE


def test_a_folder_in_its_place_is_logged_and_no_crash(
    data_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (data_dir / NAME).mkdir()
    assert SpendingFile(data_dir).read() is None
    assert "cannot be read" in caplog.text
    with pytest.raises(OSError):
        SpendingFile(data_dir).add(ONE)
    assert {path.suffix for path in data_dir.iterdir()} == {".json", ".lock"}  # no half-written file is left


@given(st.text(max_size=20), st.integers(0, 10**12), st.floats(0, 1e6))
def test_every_spending_survives_the_file(name: str, tokens: int, usd: float) -> None:
    spending = Spending(DAY).adding(name, Amount(tokens, usd))
    assert Spending.from_json(spending.to_json()) == spending


def test_processes_that_share_a_folder_lose_nothing(data_dir: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from dspy_demo.guests.spending import *; from dspy_demo.guests.spending_file import SpendingFile\n"
        "file = SpendingFile(Path(sys.argv[1]))\n"
        f"for _ in range(100): file.add(Spending('{DAY}', Amount(1), {{sys.argv[2]: 1}}))\n"
    )
    command = [sys.executable, "-c", code, str(data_dir)]
    root = Path(__file__).parents[2]
    writers = [subprocess.Popen([*command, name], cwd=root, env=dict(os.environ)) for name in "abc"]
    file = SpendingFile(data_dir)
    while any(writer.poll() is None for writer in writers):
        if (seen := file.read()) is not None:  # never a half-written one
            assert seen.total.tokens == sum(seen.guests.values())
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    assert file.read() == Spending(DAY, Amount(300), {"a": 100, "b": 100, "c": 100})
