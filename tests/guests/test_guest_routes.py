"""The routes as a guest's script sees them, where guests may use less than the owner starts with."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.fake_openai import free_port
from tests.processes import ServerProcess, running_app

GUESTS = {"authorization": "Bearer guest-token-0123456789"}
OWNERS = {"authorization": "Bearer owner-token-0123456789"}
QUESTION = "What is 2 + 2?"
pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    home = tmp_path_factory.mktemp("guest-routes")
    nobody = f"http://127.0.0.1:{free_port()}/v1"
    flags = ["--public", "--lm", "openai/foo", "--api-base", nobody, "--lm-retries", "0"]
    flags += ["--guest-models", "demo/engine", "--guest-programs", "predict,react"]
    tokens = {
        "DSPY_DEMO_OWNER_TOKEN": "owner-token-0123456789",
        "DSPY_DEMO_GUEST_TOKEN": "guest-token-0123456789",
    }
    with running_app(*flags, data_dir=home / "data", home=home, env=tokens) as server:
        yield server


def post(app: ServerProcess, path: str, body: object, who: dict[str, str] = GUESTS) -> httpx.Response:
    return httpx.post(app.url + path, json=body, headers=who, timeout=30)


def test_a_guest_is_answered_by_the_guests_model_and_program(app: ServerProcess) -> None:
    reply = post(app, "/predict", {"text": QUESTION})
    assert reply.status_code == 200, reply.text
    assert reply.json()["data"] == {"answer": "2 + 2 = 4."}  # of `predict`, which does not reason
    stream = post(app, "/predict/stream", {"text": QUESTION})
    assert '"model":"demo/engine"' in stream.text
    chat = {"model": "react", "messages": [{"role": "user", "content": QUESTION}]}
    assert post(app, "/v1/chat/completions", chat).status_code == 200


def test_the_owner_still_asks_the_owners(app: ServerProcess) -> None:
    reply = post(app, "/predict", {"text": QUESTION}, OWNERS)
    assert reply.status_code == 503  # nobody listens there
    listed = httpx.get(f"{app.url}/v1/models", headers=OWNERS, timeout=30).json()["data"]
    assert len(listed) >= 4


def test_a_guest_learns_of_no_other_program(app: ServerProcess) -> None:
    listed = httpx.get(f"{app.url}/v1/models", headers=GUESTS, timeout=30).json()["data"]
    assert [model["id"] for model in listed] == ["predict", "react"]
    for name in ("chain_of_thought", "no_such_program"):
        chat = {"model": name, "messages": [{"role": "user", "content": QUESTION}]}
        for reply in (
            post(app, "/predict", {"text": QUESTION, "program": name}),
            post(app, "/v1/chat/completions", chat),
            httpx.get(f"{app.url}/v1/models/{name}", headers=GUESTS, timeout=30),
        ):
            assert reply.status_code == 404, reply.text
            assert "The programs here are: predict, react." in reply.text
