"""``python app.py log``, as a script sees it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dspy_demo.settings import Settings
from dspy_demo.versions import VersionStore
from tests.fake_openai import FakeOpenAI
from tests.processes import REPO

SCRIPT = """
import os, sys
from dspy_demo.versions.command import log_command
sys.exit(log_command(sys.argv[1:], os.environ))
"""


def run(cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(REPO)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.integration
def test_it_logs_and_says_where(tmp_path: Path, home: Path, fake_openai: FakeOpenAI) -> None:
    program = tmp_path / "my_program.py"
    program.write_text("import dspy\nprogram = dspy.ChainOfThought('question -> answer')\n")
    done = run(
        home,
        *("--data-dir", str(tmp_path / "data"), "--program", str(program), "--adapter", "json"),
        *("--lm", "openai/fake", "--api-base", fake_openai.url, "--temperature", "0.3"),
        *("--name", "from-a-script", "--description", "nightly", "--tag", "team=search", "--tag", "a=b=c"),
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "models:/from-a-script/1\n"
    assert "Warning" not in done.stderr and "alembic" not in done.stderr and "INFO" not in done.stderr
    assert [path.name for path in home.iterdir() if path.name in {"mlruns", "mlflow.db"}] == []
    store = VersionStore(Settings(data_dir=tmp_path / "data"))
    version = store.get("models:/from-a-script/1")
    assert (version.program, version.lm, version.adapter) == ("my_program", "openai/fake", "json")
    assert (version.description, version.tags) == ("nightly", {"team": "search", "a": "b=c"})
    loaded = store.load(version.uri)
    assert (loaded.lm.api_base, loaded.lm.temperature) == (fake_openai.url, 0.3)
    assert loaded.spec.chat_field == "question"
    assert not fake_openai.streams, "no language model was called"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--name", "a/b"], "name may hold letters"),
        (["--tag", "no-equals"], "KEY=VALUE"),
        (["--program", "nothing.py"], "there is no file"),
        (["--temperature", "7"], "--temperature"),
        (["--lm", "openai/gpt-4o"], "needs a key"),
    ],
)
def test_a_mistake_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str, store_dir: Path
) -> None:
    from dspy_demo.versions.command import log_command

    environ: dict[str, str] = {}
    assert log_command(["--data-dir", str(store_dir), *arguments], environ) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and said in printed.err and "Traceback" not in printed.err
