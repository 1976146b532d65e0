"""The app as a process: what it refuses, its start, its end."""

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

from tests.fake_openai import Reply
from tests.processes import ServerProcess, wait_until

ROOT = Path(__file__).parent.parent
Start = Callable[..., ServerProcess]


def test_importing_touches_no_network_and_no_disk(home):
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


SECRET_BASE = "http://me:hunter2@127.0.0.1:9/v1"
#: Arguments, variables, and what the sentence begins with or holds.
CANNOT_START: list[tuple[list[str], dict[str, str], str]] = [
    (["--port", "0"], {}, "--port"),
    (["--lm", "openai/gpt-4o"], {}, "OPENAI_API_KEY"),
    (["--lm", "gpt-4o"], {}, "provider/model"),
    (["--lm", "local/qwen2.5-0.5b-instruct", "--models-dir", "/nowhere"], {}, "models pull qwen"),
    (["--program", "missing.py"], {}, "no file"),
    (["--program", "no_such"], {}, "no shipped program"),
    (["--api-base", "http://127.0.0.1:9/v1"], {}, "--api-base"),
    (["--host", "203.0.113.7"], {}, "203.0.113.7 is not an address of this machine"),
    (["--host", "no-such-host.invalid"], {}, "no-such-host.invalid is not an address of this machine"),
    (["--serve-env", "PATH,MYCORP_KEY"], {}, "--serve-env: MYCORP_KEY is not set in the environment"),
    (["--api-base", SECRET_BASE], {}, "--api-base"),
    ([], {"DSPY_DEMO_API_BASE": SECRET_BASE}, "DSPY_DEMO_API_BASE"),
    ([], {"OPENAI_BASE_URL": SECRET_BASE}, "OPENAI_BASE_URL"),
    (["--lm", "openai/x"], {"OPENAI_API_BASE": "http://hunter2@127.0.0.1:9"}, "OPENAI_API_BASE"),
    (["--ollama-url", SECRET_BASE], {}, "--ollama-url"),
    (["--api-base", "http://127.0.0.1:9/v1?api_key=hunter2"], {}, "--api-base http://127.0.0.1:9/v1:"),
]
#: Runs the app with each of them in one process, since the imports take seconds.
RUN_EACH = """
import contextlib, io, json, os, sys
from dspy_demo.application import main
before = dict(os.environ)
for arguments, variables in json.loads(sys.argv[1]):
    os.environ.clear()
    os.environ.update(before | variables)
    told, printed = io.StringIO(), io.StringIO()
    with contextlib.redirect_stderr(told), contextlib.redirect_stdout(printed):
        code = main([*arguments, "--no-open", "--data-dir", sys.argv[2]])
    print(json.dumps([code, told.getvalue(), printed.getvalue()]))
"""


def test_what_cannot_start_says_why_in_a_sentence_without_a_credential(data_dir):
    cases = json.dumps([case[:2] for case in CANNOT_START])
    command = [sys.executable, "-c", RUN_EACH, cases, str(data_dir)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(results) == len(CANNOT_START), done.stderr
    for (arguments, _, sentence), (code, told, printed) in zip(CANNOT_START, results, strict=True):
        assert (code, printed) == (2, ""), arguments
        assert sentence in told, arguments
        assert "Traceback" not in told and "hunter2" not in told, arguments


SHOUTING = """
import dspy
class Shout(dspy.Signature):
    text: str = dspy.InputField()
    times: int = dspy.InputField(default=1)
    loud: str = dspy.OutputField()
program = dspy.Predict(Shout)
"""


@pytest.mark.integration
def test_an_own_program_is_served_and_a_turn_that_runs_at_sigterm_ends_with_its_whole_answer(
    server_process, fake_openai, tmp_path, data_dir
):
    file = tmp_path / "shouting.py"
    file.write_text(SHOUTING)
    app = server_process(
        *("--program", str(file), "--lm", "openai/fake", "--api-base", fake_openai.url, "--no-cache")
    )
    assert httpx.get(f"{app.url}/v1/models").json()["data"][0]["id"] == "shouting"
    body = {"inputs": {"text": "2 + 3", "times": 2}}
    assert list(httpx.post(f"{app.url}/predict", json=body, timeout=30).json()["data"]) == ["loud"]
    command = ["app.py", "--port", str(app.port), "--no-open", "--data-dir", str(data_dir / "second")]
    second = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert (second.returncode, f"Port {app.port}" in second.stderr) == (2, True), "a port in use is told"

    words = " ".join(f"word{number}" for number in range(20))
    fake_openai.reply(Reply(fields={"loud": words}, tokens_per_second=20))
    events: list[dict[str, Any]] = []
    last, told = "", False
    with httpx.stream("POST", f"{app.url}/predict/stream", json=body, timeout=30) as response:
        for line in response.iter_lines():
            if line.startswith("data: {"):
                events.append(json.loads(line[6:]))
                if events[-1]["type"] == "delta" and not told:
                    told = True
                    app.process.send_signal(signal.SIGTERM)
            last = line or last
    assert (events[-1]["type"], events[-1]["prediction"]) == ("final", {"loud": words})
    assert last == "data: [DONE]"
    assert app.process.wait(15) == 0
    assert "Traceback" not in app.log


@pytest.mark.integration
def test_a_second_ctrl_c_ends_at_once(server_process, fake_openai):
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
