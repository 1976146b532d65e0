"""A program becomes a version by command and by route; a model server answers with it."""

import json

import httpx
import pytest

from tests.black_box.conftest import KEY

pytestmark = pytest.mark.integration


def test_a_version_logged_by_command_is_served_and_answers(house):
    done = house.command("log", "--program", "chain_of_thought", "--name", "shown", *house.model)
    assert done.returncode == 0, done.stderr
    with house.running("-m dspy_demo.serving models:/shown/1") as server:
        messages = {"messages": [{"role": "user", "content": "6 times 7?"}]}
        choice = httpx.post(server.url + "/invocations", json=messages, timeout=60).json()["choices"][0]
        assert set(json.loads(choice["message"]["content"])) == {"reasoning", "answer"}
        streamed = httpx.post(server.url + "/predict/stream", json={"text": "7 times 7?"}, timeout=60)
        assert '"type":"delta"' in streamed.text and '"type":"final"' in streamed.text
    files = [path for path in (house.folder / "data").rglob("*") if path.is_file()]
    assert [path for path in files if KEY in path.read_text(errors="ignore")] == []


def test_a_route_logs_a_version_with_its_words(app):
    body = {"name": "by-route", "description": "From a test", "tags": {"team": "search"}}
    reply = httpx.post(app.url + "/versions", json=body, timeout=120)
    assert reply.status_code < 300, reply.text
    assert str(reply.json()["version"]) == "1"


def test_a_wrong_flag_ends_with_a_sentence(house):
    done = house.command("log", "--tag", "no-equals")
    assert (done.returncode, done.stdout) == (2, "")
    assert "KEY=VALUE" in done.stderr and "Traceback" not in done.stderr
