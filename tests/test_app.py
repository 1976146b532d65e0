"""The app as a process: its flags, its start, its end."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fake_openai import FakeOpenAI, Reply
from tests.processes import ServerProcess, wait_until

ROOT = Path(__file__).parent.parent
Start = Callable[..., ServerProcess]


def run_app(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "app.py"), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=cwd,
    )


def test_importing_touches_no_network_and_no_disk(home: Path) -> None:
    """Also none of the heavy libraries: they are imported where they are first needed."""
    code = (
        "import sys, socket, os\n"
        "def no(*a, **k): raise AssertionError('network at import')\n"
        "socket.socket.connect = no\n"
        "import app, dspy_demo\n"
        "heavy = {'gradio', 'mlflow', 'dspy', 'litellm', 'fastapi'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    environ = {"PYTHONPATH": str(ROOT), "HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=home, env=environ, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert not list(home.iterdir())


def test_help_names_the_flags() -> None:
    done = run_app("--help")
    assert done.returncode == 0
    flags = (
        "--host",
        "--port",
        "--lm",
        "--api-base",
        "--program",
        "--share",
        "--open",
        "--no-open",
        "--data-dir",
    )
    for flag in flags:
        assert flag in done.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--port", "0"], "--port"),
        (["--lm", "openai/gpt-4o"], "OPENAI_API_KEY"),
        (["--program", "missing.py"], "no file"),
        (["--program", "no_such"], "no shipped program"),
        (["--api-base", "http://127.0.0.1:9/v1"], "--api-base"),
        (["--host", "203.0.113.7"], "203.0.113.7 is not an address of this machine"),
        (["--host", "no-such-host.invalid"], "no-such-host.invalid is not an address of this machine"),
        (["--serve-env", "PATH,MYCORP_KEY"], "--serve-env: MYCORP_KEY is not set in the environment"),
    ],
)
def test_what_cannot_start_says_why_in_a_sentence(
    arguments: list[str], sentence: str, data_dir: Path
) -> None:
    done = run_app(*arguments, "--no-open", "--data-dir", str(data_dir))
    assert done.returncode == 2
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "variables", "where"),
    [
        (["--api-base", "http://me:hunter2@127.0.0.1:9/v1"], {}, "--api-base"),
        ([], {"DSPY_DEMO_API_BASE": "http://me:hunter2@127.0.0.1:9/v1"}, "DSPY_DEMO_API_BASE"),
        ([], {"OPENAI_BASE_URL": "http://me:hunter2@127.0.0.1:9/v1"}, "OPENAI_BASE_URL"),
        (["--lm", "openai/x"], {"OPENAI_API_BASE": "http://hunter2@127.0.0.1:9"}, "OPENAI_API_BASE"),
        (["--ollama-url", "http://me:hunter2@127.0.0.1:9"], {}, "--ollama-url"),
        (["--api-base", "http://127.0.0.1:9/v1?api_key=hunter2"], {}, "--api-base http://127.0.0.1:9/v1:"),
    ],
)
def test_no_credentials_of_an_address_are_shown(
    arguments: list[str],
    variables: dict[str, str],
    where: str,
    data_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    done = run_app(*arguments, "--no-open", "--data-dir", str(data_dir))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(where)
    assert "hunter2" not in done.stderr


@pytest.mark.integration
def test_the_app_serves_page_and_routes_and_ends_cleanly(server_process: Start, tmp_path: Path) -> None:
    app = server_process()
    assert httpx.get(f"{app.url}/health").json()["status"] == "ok"
    assert "<!doctype html>" in httpx.get(app.url).text
    reply = httpx.post(f"{app.url}/predict", json={"text": "What is 2 + 2?"}, timeout=30).json()
    assert reply["status"] == "success"
    assert reply["data"]["answer"] == "2 + 2 = 4."
    assert reply["data"]["reasoning"]
    assert app.stop() == 0
    assert "Traceback" not in app.log


@pytest.mark.integration
def test_a_turn_that_runs_at_sigterm_ends_with_its_whole_answer(
    server_process: Start, fake_openai: FakeOpenAI
) -> None:
    app = server_process("--lm", "openai/fake", "--api-base", fake_openai.url, "--no-cache")
    words = " ".join(f"word{number}" for number in range(20))
    fake_openai.reply(Reply(fields={"reasoning": "Hm.", "answer": words}, tokens_per_second=20))
    events: list[dict[str, Any]] = []
    last, told = "", False
    with httpx.stream("POST", f"{app.url}/predict/stream", json={"text": "hi"}, timeout=30) as response:
        for line in response.iter_lines():
            if line.startswith("data: {"):
                events.append(json.loads(line[6:]))
                if events[-1]["type"] == "delta" and not told:
                    told = True
                    app.process.send_signal(signal.SIGTERM)
            last = line or last
    assert events[-1]["type"] == "final"
    assert events[-1]["prediction"]["answer"] == words
    assert last == "data: [DONE]"
    assert app.process.wait(15) == 0
    assert "Traceback" not in app.log


@pytest.mark.integration
def test_a_second_ctrl_c_ends_at_once(server_process: Start, fake_openai: FakeOpenAI) -> None:
    app = server_process(
        *("--lm", "openai/fake", "--api-base", fake_openai.url, "--no-cache", "--shutdown-grace-s", "100")
    )
    fake_openai.reply(Reply(tokens_per_second=5, filler_chars=20_000))
    with httpx.stream("POST", f"{app.url}/predict/stream", json={"text": "hi"}, timeout=30) as response:
        lines = response.iter_lines()  # kept, since httpx hangs up when an iterator is let go
        next(line for line in lines if '"delta"' in line)
        app.process.send_signal(signal.SIGINT)
        wait_until(lambda: httpx.get(f"{app.url}/ready").status_code == 503, 10, "it shuts down")
        app.process.send_signal(signal.SIGINT)
        assert app.process.wait(3) == -signal.SIGINT


@pytest.mark.integration
def test_a_port_in_use_is_told(server_process: Start, data_dir: Path) -> None:
    app = server_process()
    port = app.url.rsplit(":", 1)[-1]
    done = run_app("--port", port, "--no-open", "--data-dir", str(data_dir / "second"))
    assert done.returncode == 2
    assert f"Port {port}" in done.stderr


@pytest.mark.integration
def test_an_own_program_from_a_file(server_process: Start, tmp_path: Path) -> None:
    file = tmp_path / "shouting.py"
    file.write_text(
        "import dspy\n"
        "class Shout(dspy.Signature):\n"
        "    text: str = dspy.InputField()\n"
        "    times: int = dspy.InputField(default=1)\n"
        "    loud: str = dspy.OutputField()\n"
        "program = dspy.Predict(Shout)\n"
    )
    app = server_process("--program", f"{file}")
    models = httpx.get(f"{app.url}/v1/models").json()["data"]
    assert models[0]["id"] == "shouting"
    reply = httpx.post(
        f"{app.url}/predict", json={"inputs": {"text": "2 + 3", "times": 2}}, timeout=30
    ).json()
    assert list(reply["data"]) == ["loud"]
