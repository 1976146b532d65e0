"""A served version streams what the local backend streams: own programs, cut replies, thinking."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import dspy
import pytest

from dspy_demo.errors import VersionNotServable
from dspy_demo.events import FieldDelta, LMChoice, TurnFinished
from dspy_demo.programs.own import load_program
from dspy_demo.serving.app import build_app
from dspy_demo.serving.loading import ServedVersion, _of_another_tool
from tests.backends.served_fixtures import ServedWorld
from tests.fake_openai import FakeOpenAI
from tests.services import settings_for
from tests.serving.conftest import heard, in_process

pytestmark = pytest.mark.integration

CASES = Path(__file__).parent.parent / "cases"


async def test_a_programs_own_threads_stream_behind_a_server(
    fake_openai: FakeOpenAI, loaded_version: ServedVersion, data_dir: Path
) -> None:
    spec = load_program(str(CASES / "parallel.py"))
    choice = LMChoice("openai/fake", fake_openai.url, cache=False)
    version = replace(loaded_version, spec=spec, module=spec.build(), lm=choice)
    settings = settings_for(data_dir, tracing=False, api_key="sk-of-the-test")
    async with in_process(build_app(version, settings)) as client:
        reply = await client.post("/predict/stream", json={"inputs": {"question": "visitor-7?"}})
    lines = [line.removeprefix("data: ") for line in reply.text.splitlines() if line.startswith("data: ")]
    *events, end = map(json.loads, lines[:-1])
    deltas = [event for event in events if event["type"] == "delta"]
    assert {(delta["step"], delta["field"]) for delta in deltas} == {
        *((step, "draft") for step in ("one", "one#2", "one#3")),
        ("join", "answer"),
    }
    assert "visitor-7" in end["prediction"]["answer"]
    assert end["usage"]["completion_tokens"] == sum(stream.tokens_sent for stream in fake_openai.streams)


async def test_a_cut_reply_and_its_thinking_come_through_a_server(served_world: ServedWorld) -> None:
    text = "<think>hm</think>[[ ## reasoning ## ]]\nbecause it is"
    served_world.fake.reply(text=text, finish_reason="length")
    *events, end = await heard(served_world, served_world.request(served_world.live.url))
    deltas = [event for event in events if isinstance(event, FieldDelta)]
    assert isinstance(end, TurnFinished)
    assert (end.finish_reason, end.outputs) == ("length", {"reasoning": "because it is"})
    assert "".join(delta.text for delta in deltas if delta.field == "thinking") == "hm"


class Chatty(dspy.Module):
    """As MLflow's documentation writes a chat model."""

    def forward(self, messages: list[dict[str, str]]) -> dict[str, str]:
        return {"role": "assistant", "answer": f"{len(messages)} messages, last: {messages[-1]['content']}"}


async def test_a_version_of_plain_mlflow_is_asked_with_messages() -> None:
    lm = dspy.LM("openai/fake", api_base="http://u:p@host/v1", temperature=0.5)
    made = _of_another_tool("models:/theirs/1", Chatty(), lm=lm, adapter=None)
    assert made.lm == LMChoice("openai/fake", "http://host/v1", temperature=0.5)
    history = dspy.History(messages=[{"question": "a", "answer": "b"}])
    result = await made.module.acall(**{made.spec.chat_field: "c", str(made.spec.history_field): history})
    assert result.answer == "3 messages, last: c"
    with pytest.raises(VersionNotServable, match="without a language model"):
        _of_another_tool("models:/theirs/1", Chatty(), lm=None, adapter=None)
