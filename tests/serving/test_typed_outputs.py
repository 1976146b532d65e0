"""Outputs of any type are the same JSON by every way out: REST, `/v1`, both model servers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from dspy_demo.events import LMChoice
from dspy_demo.programs.own import load_program
from dspy_demo.programs.registry import ProgramRegistry
from dspy_demo.versions import LogRequest, VersionStore
from tests.backends.served_fixtures import start_model_server, start_plain_server
from tests.fake_openai import FakeOpenAI
from tests.services import settings_for

pytestmark = pytest.mark.integration

CASE = Path(__file__).parent.parent / "cases" / "typed_outputs.py"
#: What the model writes, and what has to come out.
OUTPUTS: dict[str, Any] = {
    "sentiment": "positive",
    "topic": "billing",
    "person": {
        "name": "Ada",
        "mood": "negative",
        "addresses": [{"city": "London", "since": "1843-07-10"}],
    },
    "span": {"start": 3, "end": 8},
    "day": "2026-11-27",
    "at": "2026-11-27T15:30:00",
    "price": "12.75",
    "tags": ["a", "b"],
    "score": 7,
    "ratio": 0.5,
    "ok": True,
}
CHAT = {"messages": [{"role": "user", "content": "Describe this."}]}
BODIES: dict[str, dict[str, Any]] = {
    "messages": CHAT,
    "dataframe_split": {"dataframe_split": {"columns": ["messages"], "data": [[CHAT["messages"]]]}},
    "dataframe_records": {"dataframe_records": [CHAT]},
    "inputs": {"inputs": CHAT},
    "instances": {"instances": CHAT},
}


@pytest.fixture(scope="module")
def post(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str, str, Any], Any]]:
    """Ask the program's version at ``live``, our model server, or ``plain``, MLflow's; what it replies."""
    home = tmp_path_factory.mktemp("typed")
    settings = settings_for(home / "data", tracing=False)
    with ExitStack() as running:
        fake = running.enter_context(FakeOpenAI())
        spec, choice = load_program(str(CASE)), LMChoice("openai/fake", fake.url, cache=False)
        version = VersionStore(settings).log(LogRequest("typed", spec.name, choice), ProgramRegistry([spec]))
        servers = {
            "live": start_model_server(version.uri, settings, home),
            "plain": start_plain_server(version.uri, settings, home),
        }
        for server in servers.values():
            running.callback(server.stop)
        for server in servers.values():
            server.wait_until_healthy("/ping")

        def ask(server: str, path: str, body: Any) -> Any:
            fake.reset()
            fake.reply(fields=OUTPUTS)
            reply = httpx.post(servers[server].url + path, json=body, timeout=60)
            assert reply.status_code == 200, reply.text
            return reply.json()

        yield ask


def content(reply: dict[str, Any]) -> Any:
    """The fields in a chat reply, whose content is their JSON."""
    return json.loads(reply["choices"][0]["message"]["content"])


def test_our_own_routes(post: Callable[..., Any]) -> None:
    assert post("live", "/predict", {"text": "Describe this."})["data"] == OUTPUTS
    chat = {"model": "typed_outputs", "response_format": {"type": "json_object"}, **CHAT}
    assert content(post("live", "/v1/chat/completions", chat)) == OUTPUTS


@pytest.mark.parametrize("server", ["live", "plain"])
def test_invocations(post: Callable[..., Any], server: str) -> None:
    for name, body in BODIES.items():
        reply = post(server, "/invocations", body)
        assert content(reply if name == "messages" else reply["predictions"]) == OUTPUTS, name
