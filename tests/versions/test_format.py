"""The form of a version's files: one of format 1, logged on 27 November 2026, answers as long as it is kept.

`format_1` is what the log of a program without a model call left in MLflow. It is never made anew: nothing
that moves or changes in this app may break it. Other formats are refused with what to do.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import httpx
import pytest
import yaml

from dspy_demo.errors import VersionNotServable
from dspy_demo.serving import loading
from dspy_demo.settings import Settings
from dspy_demo.versions import VersionStore
from tests.backends.served_fixtures import start_model_server, start_plain_server
from tests.versions.conftest import FORMAT_1

CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "First?"},
    {"role": "assistant", "content": "First."},
    {"role": "user", "content": "And then?"},
]
ANSWER = {"answer": "AND THEN?", "before": 1}


@pytest.fixture
def settings(store: VersionStore, data_dir: Path) -> Settings:
    """With a database of its own, so that servers have no other to wait for."""
    shutil.copy(store.tracking.data_dir / "mlflow.db", data_dir)
    return Settings(data_dir=data_dir, tracing=False)


def registered(settings: Settings, folder: Path, name: str = "old") -> str:
    client = VersionStore(settings).tracking.client
    client.create_registered_model(name)
    return f"models:/{name}/{client.create_model_version(name, str(folder)).version}"


@pytest.mark.integration
def test_a_version_of_format_1_answers_behind_both_kinds_of_server(settings: Settings, home: Path) -> None:
    uri = registered(settings, shutil.copytree(FORMAT_1, home / "format_1"))  # MLflow writes into it
    version = VersionStore(settings).get(uri)
    assert version.servable and not version.same_code
    plain = start_plain_server(uri, settings, home)
    server = start_model_server(uri, settings, home, env={"OPENAI_API_KEY": "unused-key"})
    try:
        for each in (server, plain):
            each.wait_until_healthy("/ping")
            reply = httpx.post(f"{each.url}/invocations", json={"messages": CHAT}, timeout=60)
            assert json.loads(reply.json()["choices"][0]["message"]["content"]) == ANSWER, reply.text
        model = httpx.get(f"{server.url}/model").json()
        assert (model["program"], model["adapter"], model["lm"]) == ("Echo", "json", "openai/fake")
    finally:
        server.stop()
        plain.stop()


def test_another_format_is_refused_with_what_to_do(settings: Settings, tmp_path: Path) -> None:
    for number in (None, 2):
        folder = shutil.copytree(FORMAT_1, tmp_path / f"format-{number}")
        mlmodel = yaml.safe_load((folder / "MLmodel").read_text())
        mlmodel["metadata"]["dspy_demo"]["format"] = number
        (folder / "MLmodel").write_text(yaml.safe_dump(mlmodel))
        (folder / "data" / "model.pkl").write_bytes(b"not to be read")
        uri, store = registered(settings, folder, f"format-{number}"), VersionStore(settings)
        assert not store.get(uri).servable
        for use in (store.load, store.promote, lambda uri: loading.load(uri, settings)):
            with pytest.raises(VersionNotServable) as caught:
                use(uri)
            assert "another version of this app. Log the program again" in caught.value.public_message
