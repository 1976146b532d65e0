"""The form of a version's files: one of format 1 answers as long as it is kept, others are refused.

Nothing that moves or changes in this app may break `format_1`.
"""

import json
import shutil

import httpx
import pytest
import yaml

from dspy_demo.errors import ModelSetupError, VersionNotServable
from dspy_demo.lm.local.files import KNOWN, find, missing, record, the_same
from dspy_demo.serving import loading
from dspy_demo.settings import Settings
from dspy_demo.versions import VersionStore
from tests.backends.served_fixtures import start_model_server, start_plain_server
from tests.tiny_gguf import write_tiny_gguf
from tests.versions.conftest import FORMAT_1

SAID = (("system", "Be brief."), ("user", "First?"), ("assistant", "First."), ("user", "And then?"))
CHAT = [{"role": role, "content": content} for role, content in SAID]
ANSWER = {"answer": "AND THEN?", "before": 1}


@pytest.fixture
def settings(store, data_dir):
    """Of a database of their own, so that servers wait for no other."""
    shutil.copy(store.tracking.data_dir / "mlflow.db", data_dir)
    return Settings(data_dir=data_dir, tracing=False)


@pytest.mark.integration
def test_a_version_of_format_1_answers_behind_both_kinds_of_server(settings, home, register):
    store = VersionStore(settings)
    uri = register("old", shutil.copytree(FORMAT_1, home / "format_1"), store)  # MLflow writes into it
    version = store.get(uri)
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


def test_another_format_is_refused_with_what_to_do(settings, tmp_path, register):
    store = VersionStore(settings)
    for number in (None, 2):
        folder = shutil.copytree(FORMAT_1, tmp_path / f"format-{number}")
        mlmodel = yaml.safe_load((folder / "MLmodel").read_text())
        mlmodel["metadata"]["dspy_demo"]["format"] = number
        (folder / "MLmodel").write_text(yaml.safe_dump(mlmodel))
        (folder / "data" / "model.pkl").write_bytes(b"not to be read")
        uri = register(f"format-{number}", folder, store)
        assert not store.get(uri).servable
        for use in (store.load, store.promote, lambda uri: loading.load(uri, settings)):
            with pytest.raises(VersionNotServable) as caught:
                use(uri)
            assert "another version of this app. Log the program again" in caught.value.public_message


def test_the_same_file_is_found_under_any_name_and_no_other(tmp_path, home):
    """As the version on a model file finds it again, by its checksum."""
    settings = Settings(data_dir=tmp_path, models_dir=tmp_path / "m")
    tiny = write_tiny_gguf(tmp_path / "tiny.gguf")
    noted = record(find(f"local/{tiny}", settings).identified())
    assert the_same(noted, settings).path == tiny
    with pytest.raises(ModelSetupError, match=r"SHA-256 0{12}.*not on this machine"):
        the_same(noted | {"sha256": "0" * 64}, settings)
    repo = home / ".cache/huggingface/hub/models--owner--repo"
    snapshot, blob = repo / "snapshots" / ("a" * 40), repo / "blobs" / noted["sha256"]
    for folder in (snapshot, blob.parent):
        folder.mkdir(parents=True)
    blob.write_bytes(tiny.read_bytes())
    (snapshot / "renamed.gguf").symlink_to(blob)
    assert the_same(noted | {"name": "/nowhere/tiny.gguf"}, settings).path == snapshot / "renamed.gguf"
    assert missing("Qwen", KNOWN[0].sha256).endswith(f"Run: python app.py models pull {KNOWN[0].name}")
