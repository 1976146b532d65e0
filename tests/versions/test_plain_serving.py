"""The tutorial's path, without this app: ``mlflow models serve`` and ``generate-dockerfile``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dspy_demo.events import LMChoice
from dspy_demo.programs.registry import ProgramRegistry
from dspy_demo.versions import LogRequest, Version, VersionStore
from tests.fake_openai import FakeOpenAI, free_port
from tests.processes import ServerProcess

pytestmark = pytest.mark.integration


def environment(store: VersionStore, **more: str) -> dict[str, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "MLFLOW_TRACKING_URI": store.tracking_uri, **more}


@contextmanager
def served(store: VersionStore, version: Version, home: Path, **env: str) -> Iterator[ServerProcess]:
    port = free_port()
    command = [
        "-m",
        "mlflow",
        "models",
        "serve",
        "-m",
        version.uri,
        "--env-manager",
        "local",
        "-p",
        str(port),
    ]
    log_path = home / "serve.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=home,
            env=environment(store, **env),
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    server = ServerProcess(process, f"http://127.0.0.1:{port}", port, log_path)
    try:
        server.wait_until_healthy("/ping")
        yield server
    finally:
        server.stop()


def invoke(server: ServerProcess, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(
        server.url + "/invocations",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:
            return json.load(reply)
    except urllib.error.HTTPError as error:
        return {"status": error.code, **json.load(error)}


def content(reply: dict[str, Any]) -> dict[str, Any]:
    return json.loads(reply["choices"][0]["message"]["content"])


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def test_models_serve_answers_the_tutorials_curl(
    store: VersionStore, programs: ProgramRegistry, name: str, home: Path, fake_openai: FakeOpenAI
) -> None:
    """One server for all of it: it takes seconds to start."""
    choice = LMChoice("openai/fake", fake_openai.url, temperature=0.3)
    version = store.log(LogRequest(name, "chain_of_thought", choice), programs)
    with served(store, version, home, OPENAI_API_KEY="a-key-at-run-time") as server:
        fake_openai.reply(fields={"reasoning": "Two and two.", "answer": "4"})
        reply = invoke(server, {"messages": [user("What is 2 + 2?")]})
        assert reply["choices"][0]["message"]["role"] == "assistant"
        assert content(reply) == {"reasoning": "Two and two.", "answer": "4"}
        sent = fake_openai.requests[-1]
        assert sent.api_key == "a-key-at-run-time" and sent.json["temperature"] == 0.3

        fake_openai.reply(fields={"reasoning": "r", "answer": "5"})
        assistant = {"role": "assistant", "content": "It is 4."}
        invoke(server, {"messages": [user("What is 2 + 2?"), assistant, user("And one more?")]})
        turns = [(turn["role"], turn["content"]) for turn in fake_openai.requests[-1].json["messages"]]
        assert [role for role, _ in turns] == ["system", "user", "assistant", "user"]
        assert "It is 4." in turns[2][1] and "And one more?" in turns[3][1]

        refused = invoke(server, {"messages": [{"role": "user"}]})
        assert refused["status"] == 400
    assert "a-key-at-run-time" not in server.log


def test_a_dockerfile_can_be_made(
    store: VersionStore, programs: ProgramRegistry, name: str, home: Path
) -> None:
    version = store.log(LogRequest(name, "predict", LMChoice("demo/engine")), programs)
    command = ["models", "generate-dockerfile", "-m", version.uri, "-d", str(home / "image")]
    made = subprocess.run(
        [sys.executable, "-m", "mlflow", *command],
        env=dict(os.environ) | {"MLFLOW_TRACKING_URI": store.tracking_uri},
        capture_output=True, text=True,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    dockerfile = (home / "image" / "Dockerfile").read_text()
    assert "FROM" in dockerfile and "ENTRYPOINT" in dockerfile
    files = {path.name for path in (home / "image").rglob("*")}
    assert {"MLmodel", "requirements.txt", "dspy_demo"} <= files
