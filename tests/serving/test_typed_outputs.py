"""Outputs of any type are the same JSON by every way out: REST, `/v1`, both model servers, pyfunc."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.backends.served_fixtures import PLAIN_ENV, start_model_server, start_plain_server
from tests.environment import scrubbed
from tests.fake_openai import FakeOpenAI
from tests.processes import REPO, running_app
from tests.services import settings_for

pytestmark = pytest.mark.integration

CASE = REPO / "tests" / "cases" / "typed_outputs.py"
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
PYFUNC = """
import json, sys, mlflow
uri, messages = sys.argv[1:]
print(json.dumps(mlflow.pyfunc.load_model(uri).predict({"messages": json.loads(messages)})))
"""


@dataclass
class Ways:
    """The addresses of the processes, and what a further one needs."""

    fake: FakeOpenAI
    app: str
    live: str
    plain: str
    version: str
    tracking_uri: str
    home: Path

    def post(self, url: str, body: dict[str, Any]) -> Any:
        self.fake.reset()
        self.fake.reply(fields=OUTPUTS)
        reply = httpx.post(url, json=body, timeout=60)
        assert reply.status_code == 200, reply.text
        return reply.json()


@pytest.fixture(scope="module")
def ways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ways]:
    """The app with the program, the version that it logged, and a server of each kind for that."""
    home = tmp_path_factory.mktemp("typed")
    settings = settings_for(home / "data", tracing=False)
    with ExitStack() as running:
        fake = running.enter_context(FakeOpenAI())
        flags = ("--lm", "openai/fake", "--api-base", fake.url, "--no-cache", "--program", str(CASE))
        app = running.enter_context(running_app(*flags, data_dir=settings.data_dir, home=home))
        logged = httpx.post(f"{app.url}/versions", json={"name": "typed"}, timeout=120)
        assert logged.status_code == 201, logged.text
        version = logged.json()["uri"]
        live = start_model_server(version, settings, home)
        running.callback(live.stop)
        plain = start_plain_server(version, settings, home)
        running.callback(plain.stop)
        for server in (live, plain):
            server.wait_until_healthy("/ping")
        database = f"sqlite:///{settings.data_dir / 'mlflow.db'}"
        yield Ways(fake, app.url, live.url, plain.url, version, database, home)


def content(reply: dict[str, Any]) -> Any:
    """The fields in a chat reply, whose content is their JSON."""
    return json.loads(reply["choices"][0]["message"]["content"])


@pytest.mark.parametrize("server", ["app", "live"])
def test_our_own_routes(ways: Ways, server: str) -> None:
    url = getattr(ways, server)
    assert ways.post(f"{url}/predict", {"text": "Describe this."})["data"] == OUTPUTS
    chat = {"model": "typed_outputs", "response_format": {"type": "json_object"}, **CHAT}
    assert content(ways.post(f"{url}/v1/chat/completions", chat)) == OUTPUTS


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("server", ["live", "plain"])
def test_invocations(ways: Ways, server: str, name: str) -> None:
    reply = ways.post(f"{getattr(ways, server)}/invocations", BODIES[name])
    assert content(reply if name == "messages" else reply["predictions"]) == OUTPUTS


def test_pyfunc(ways: Ways) -> None:
    ways.fake.reset()
    ways.fake.reply(fields=OUTPUTS)
    env = scrubbed(os.environ, ways.home) | PLAIN_ENV | {"MLFLOW_TRACKING_URI": ways.tracking_uri}
    done = subprocess.run(
        [sys.executable, "-c", PYFUNC, ways.version, json.dumps(CHAT["messages"])],
        cwd=ways.home, env=env, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert content(json.loads(done.stdout)) == OUTPUTS
