"""Outputs of any type are the same JSON by every way out: REST, `/v1`, both model servers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dspy_demo.events import LMChoice
from dspy_demo.programs.own import load_program
from dspy_demo.programs.registry import ProgramRegistry
from dspy_demo.versions import LogRequest, VersionStore
from tests.backends.served_fixtures import start_plain_server
from tests.services import settings_for
from tests.serving.conftest import in_process

CASE = Path(__file__).parent.parent / "cases" / "typed_outputs.py"
#: What the model writes, and what has to come out.
OUTPUTS = {
    "sentiment": "positive",
    "topic": "billing",
    "person": {"name": "Ada", "mood": "negative", "addresses": [{"city": "London", "since": "1843-07-10"}]},
    "span": {"start": 3, "end": 8},
    "day": "2026-11-27",
    "at": "2026-11-27T15:30:00",
    "price": "12.75",
    "tags": ["a", "b"],
    "score": 7,
    "ratio": 0.5,
    "ok": True,
}
TEXT = "Describe this."
CHAT = {"messages": [{"role": "user", "content": TEXT}]}
OPENAI = CHAT | {"model": "typed_outputs", "response_format": {"type": "json_object"}}
#: The bodies that MLflow's own server takes.
INVOCATIONS = [
    CHAT,
    {"dataframe_split": {"columns": ["messages"], "data": [[CHAT["messages"]]]}},
    {"dataframe_records": [CHAT]},
    {"inputs": CHAT},
    {"instances": CHAT},
]


def fields(reply):
    """The fields in a chat reply, whose content is their JSON."""
    [choice] = reply.get("predictions", reply)["choices"]
    return json.loads(choice["message"]["content"])


@pytest.mark.integration
async def test_outputs_of_any_type_are_the_same_json(loaded_app, fake_openai, tmp_path, client):
    settings, spec = settings_for(tmp_path / "store", tracing=False), load_program(str(CASE))
    choice = LMChoice("openai/fake", fake_openai.url, cache=False)
    version = VersionStore(settings).log(LogRequest("typed", spec.name, choice), ProgramRegistry([spec]))
    plain = start_plain_server(version.uri, settings, tmp_path / "home")
    fake_openai.reply(fields=OUTPUTS, times=12)
    try:
        async with in_process(loaded_app(spec)) as live:
            assert (await live.post("/predict", json={"text": TEXT})).json()["data"] == OUTPUTS
            assert fields((await live.post("/v1/chat/completions", json=OPENAI)).json()) == OUTPUTS
            plain.wait_until_healthy("/ping")
            for body in INVOCATIONS:
                ours = await live.post("/invocations", json=body)
                theirs = await client.post(f"{plain.url}/invocations", json=body)
                assert ours.content == theirs.content and fields(ours.json()) == OUTPUTS, body
    finally:
        plain.stop()
