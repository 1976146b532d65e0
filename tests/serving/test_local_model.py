"""A version on a model file, logged, served by a real model server, and streamed from it."""

import hashlib
import json

import httpx
import pytest
import yaml

from dspy_demo.events import LMChoice
from tests.backends.served_fixtures import log_versions, start_model_server
from tests.services import settings_for
from tests.tiny_gguf import write_tiny_gguf


@pytest.mark.integration
def test_it_streams_and_says_so_when_the_file_is_gone(tmp_path):
    path = write_tiny_gguf(tmp_path / "tiny.gguf")
    settings = settings_for(tmp_path / "data", tracing=False)
    [version] = log_versions(settings, LMChoice(f"local/{path}", max_tokens=120, cache=False))
    (mlmodel,) = (settings.data_dir / "artifacts").rglob("MLmodel")
    noted = yaml.safe_load(mlmodel.read_text())["metadata"]["dspy_demo"]["lm"]["file"]
    assert noted["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest() and "path" not in noted
    assert not list(mlmodel.parent.rglob("*.gguf")), "the weights stay where they are"
    assert "xllamacpp==" in (mlmodel.parent / "requirements.txt").read_text()

    server = start_model_server(version, settings, tmp_path / "home")
    try:
        server.wait_until_healthy("/ping")
        with httpx.Client(base_url=server.url, timeout=60) as client:
            asked = {"inputs": {"question": "What is 2 + 2?"}}
            assert client.get("/ready").json()["ready"], client.get("/ready").text
            with client.stream("POST", "/predict/stream", json=asked) as reply:
                lines = [line.removeprefix("data: ") for line in reply.iter_lines() if line]
            path.unlink()
            refused = client.post("/predict", json=asked)
    finally:
        server.stop()
    events = [json.loads(line) for line in lines[:-1]]
    kinds = [event["type"] for event in events]
    assert lines[-1] == "[DONE]" and kinds[0] == "started" and kinds[-1] == "final", events[-1]
    assert kinds.count("delta") > 10
    assert any("Loaded tiny" in event.get("text", "") for event in events if event["type"] == "status")
    assert events[-1]["prediction"]["reasoning"] and events[-1]["prediction"]["answer"]
    assert events[-1]["usage"]["completion_tokens"] > 10
    assert refused.status_code == 400 and "SHA-256" in refused.text, refused.text
    assert "not on this machine" in refused.text
