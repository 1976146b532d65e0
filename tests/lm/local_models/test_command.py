"""``python app.py models``, as a person and a script use it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from dspy_demo.lm.local_models import known, runtime
from dspy_demo.lm.local_models.command import INTERRUPTED, models_command
from tests.fake_hub import FakeHub, gguf_bytes, known_for
from tests.processes import REPO

CONTENT = gguf_bytes()
MODEL, OTHER = known_for(CONTENT), known_for(gguf_bytes(seed=2), "other-instruct")
Run = Callable[..., int]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    monkeypatch.setattr(known, "KNOWN", (MODEL, OTHER))
    with FakeHub(CONTENT) as fake:
        yield fake


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "models"


@pytest.fixture
def run(hub: FakeHub, folder: Path) -> Run:
    def command(*words: str) -> int:
        return models_command([*words, "--models-dir", str(folder)], {"HF_ENDPOINT": hub.url})

    return command


def test_pull_list_rm(run: Run, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("pull") == 0
    pulled = capsys.readouterr()
    assert pulled.out == "local/tiny-instruct\n"
    assert "200 kB, Apache-2.0, from Tiny/Tiny-Instruct-GGUF" in pulled.err
    assert "--lm local/tiny-instruct" in pulled.err
    assert (folder / "tiny-instruct.gguf").read_bytes() == CONTENT

    (folder / "other-instruct.gguf.part").write_bytes(CONTENT[:50_000])
    assert run("list") == 0
    assert capsys.readouterr().out.splitlines() == [
        "local/tiny-instruct   200 kB  downloaded       Apache-2.0",
        "local/other-instruct  200 kB  25 % downloaded  Apache-2.0",
    ]
    assert run("rm", "tiny-instruct") == 0
    assert "are free again" in capsys.readouterr().err
    assert not (folder / "tiny-instruct.gguf").exists()


def test_list_shows_the_files_of_other_programs(
    run: Run, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cached = home / ".cache/llama.cpp/mine.gguf"
    cached.parent.mkdir(parents=True)
    cached.write_bytes(gguf_bytes(3_000))
    assert run("list") == 0
    assert f"local/{cached}" in capsys.readouterr().out


def test_without_the_runtime_it_still_pulls_and_says_how_to_get_it(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runtime, "MODULE", "no_such_module")
    assert run("pull", "tiny-instruct") == 0
    assert "pip install -r requirements-local.txt" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["pull", "nothing"], "Choose tiny-instruct or other-instruct"),
        (["rm", "tiny-instruct"], "There is no model “tiny-instruct”"),
        (["pull", "other-instruct"], "does not give the expected"),
        (["list", "--hub-url", "nowhere"], "--hub-url"),
    ],
)
def test_a_mistake_is_one_sentence(
    run: Run, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert run(*words) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and said in printed.err and "Traceback" not in printed.err


@pytest.mark.parametrize("words", [[], ["--help"], ["pull", "--help"]])
def test_help_names_the_actions(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    with pytest.raises(SystemExit) as done:
        models_command(words, {})
    assert done.value.code == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("pull", "list", "rm", "--models-dir"))


def test_ctrl_c_leaves_a_part_that_the_same_command_goes_on_with(
    hub: FakeHub, folder: Path, tmp_path: Path, run: Run
) -> None:
    models = tmp_path / "models.json"
    models.write_text(json.dumps([asdict(MODEL)]))
    hub.bytes_per_s = 10_000  # so that it is far from its end, however late the signal comes
    words = ["models", "pull", "--models-dir", str(folder), "--hub-url", hub.url]
    # Where the tests are a shell's background job, they ignore Ctrl-C, and so would what they start.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        [sys.executable, "tests/app_with_tiny_model.py", str(models), *words],
        cwd=REPO, env=dict(os.environ), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    signal.signal(signal.SIGINT, before)
    hub.wait_for(lambda: hub.gets and hub.gets[0].sent > 2_000, 30)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert process.returncode == INTERRUPTED, err
    assert out == "" and "goes on from here" in err and "Traceback" not in err
    part = folder / "tiny-instruct.gguf.part"
    assert part.read_bytes() == CONTENT[: part.stat().st_size]
    hub.bytes_per_s = 0
    assert run("pull") == 0
    assert hub.gets[1].range and (folder / "tiny-instruct.gguf").read_bytes() == CONTENT
