"""The form of a version's files: one of format 1, logged on 27 November 2026, answers as long as it is kept.

`format_1` is what the log of a program without a model call left in MLflow. It is never made anew: nothing
that moves or changes in this app may break it. Other formats are refused with what to do.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from dspy_demo.errors import VersionNotServable
from dspy_demo.settings import Settings
from dspy_demo.versions import VersionStore
from tests.backends.served_fixtures import PLAIN_ENV, start_model_server, start_plain_server
from tests.environment import scrubbed
from tests.processes import REPO

FORMAT_1 = Path(__file__).parent / "format_1"
CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "First?"},
    {"role": "assistant", "content": "First."},
    {"role": "user", "content": "And then?"},
]
ANSWER = {"answer": "AND THEN?", "before": 1}
PYFUNC = """
import json, sys, mlflow
uri, messages = sys.argv[1:]
print(json.dumps(mlflow.pyfunc.load_model(uri).predict({"messages": json.loads(messages)})))
import dspy_demo_662bb442
assert "dspy_demo" not in sys.modules
"""


@pytest.fixture
def settings(store: VersionStore, data_dir: Path) -> Settings:
    """With a database of its own, so that servers have no other to wait for."""
    shutil.copy(store.tracking.data_dir / "mlflow.db", data_dir)
    return Settings(data_dir=data_dir, tracing=False)


def registered(settings: Settings, folder: Path, name: str = "old") -> str:
    client = VersionStore(settings).tracking.client
    client.create_registered_model(name)
    return f"models:/{name}/{client.create_model_version(name, str(folder)).version}"


def content(reply: dict[str, Any]) -> Any:
    return json.loads(reply["choices"][0]["message"]["content"])


@pytest.mark.integration
def test_a_version_of_format_1_is_served_by_both_servers_and_loaded_by_mlflow(
    settings: Settings, home: Path
) -> None:
    uri = registered(settings, FORMAT_1)
    version = VersionStore(settings).get(uri)
    assert version.servable and not version.same_code
    ours = start_model_server(uri, settings, home, env={"OPENAI_API_KEY": "unused-key"})
    theirs = start_plain_server(uri, settings, home)
    try:
        for server in (ours, theirs):
            server.wait_until_healthy("/ping")
            reply = httpx.post(f"{server.url}/invocations", json={"messages": CHAT}, timeout=60)
            assert content(reply.json()) == ANSWER, reply.text
        model = httpx.get(f"{ours.url}/model").json()
        assert (model["program"], model["adapter"], model["lm"]) == ("Echo", "json", "openai/fake")
    finally:
        ours.stop()
        theirs.stop()
    environment = scrubbed(os.environ, home) | PLAIN_ENV
    done = subprocess.run(
        [sys.executable, "-P", "-W", "ignore", "-c", PYFUNC, str(FORMAT_1), json.dumps(CHAT)],
        cwd=home,
        env={name: value for name, value in environment.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert content(json.loads(done.stdout)) == ANSWER


@pytest.mark.integration
@pytest.mark.parametrize(
    ("number", "sentence"),
    [
        (None, "logged by an older version of this app. Log the program again."),
        (2, "logged by a newer version of this app. Update the app, or log the program again here."),
    ],
)
def test_another_format_is_refused_with_what_to_do(
    settings: Settings, home: Path, tmp_path: Path, number: int | None, sentence: str
) -> None:
    folder = shutil.copytree(FORMAT_1, tmp_path / "other")
    mlmodel = yaml.safe_load((folder / "MLmodel").read_text())
    mlmodel["metadata"]["dspy_demo"]["format"] = number
    (folder / "MLmodel").write_text(yaml.safe_dump(mlmodel))
    (folder / "data" / "model.pkl").write_bytes(b"not to be read")
    uri, store = registered(settings, folder), VersionStore(settings)
    version = store.get(uri)
    assert not version.servable and sentence in version.reason
    for use in (store.load, store.promote):
        with pytest.raises(VersionNotServable) as caught:
            use(uri)
        assert sentence in caught.value.public_message
    done = subprocess.run(
        [sys.executable, "-m", "dspy_demo.serving", uri, "--port", "0", "--data-dir", str(settings.data_dir)],
        cwd=REPO,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode != 0 and sentence in done.stderr and "Traceback" not in done.stderr


def test_a_dockerfile_can_be_made(home: Path) -> None:
    command = ["models", "generate-dockerfile", "-m", str(FORMAT_1), "-d", str(home / "image")]
    made = subprocess.run(
        [sys.executable, "-m", "mlflow", *command], cwd=home, capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stderr
    dockerfile = (home / "image" / "Dockerfile").read_text()
    assert "FROM" in dockerfile and "ENTRYPOINT" in dockerfile
    assert {"MLmodel", "requirements.txt"} <= {path.name for path in (home / "image").rglob("*")}
