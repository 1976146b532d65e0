"""A served version streams what the local backend streams: own programs, cut replies, thinking."""

from __future__ import annotations

from pathlib import Path

import dspy
import pytest

from dspy_demo.errors import VersionNotServable
from dspy_demo.events import FieldDelta, LMChoice, ServedTarget, TurnFinished, TurnRequest
from dspy_demo.programs.own import load_program
from dspy_demo.programs.registry import ProgramRegistry
from dspy_demo.serving.loading import _of_another_tool
from dspy_demo.versions import LogRequest, VersionStore
from tests.backends.served_fixtures import ServedWorld, start_model_server
from tests.fake_openai import FakeOpenAI
from tests.services import settings_for
from tests.serving.conftest import heard

pytestmark = pytest.mark.integration

CASES = Path(__file__).parent.parent / "cases"


def deltas_and_end(events: list[object]) -> tuple[list[FieldDelta], TurnFinished]:
    end = events[-1]
    assert isinstance(end, TurnFinished), end
    return [event for event in events if isinstance(event, FieldDelta)], end


async def test_a_programs_own_threads_stream_behind_a_server(
    fake_openai: FakeOpenAI, served_world: ServedWorld, data_dir: Path, home: Path
) -> None:
    settings = settings_for(data_dir, tracing=False)
    spec = load_program(str(CASES / "parallel.py"))
    choice = LMChoice("openai/fake", fake_openai.url, cache=False)
    version = VersionStore(settings).log(LogRequest("fan", spec.name, choice), ProgramRegistry([spec]))
    server = start_model_server(version.uri, settings, home)
    try:
        server.wait_until_healthy("/ping")
        request = TurnRequest(ServedTarget(server.url, version.uri), {"question": "visitor-7?"})
        deltas, end = deltas_and_end(await heard(served_world, request))
    finally:
        server.stop()
    assert {(delta.step, delta.field, delta.channel) for delta in deltas} == {
        *((step, "draft", "reasoning") for step in ("one", "one#2", "one#3")),
        ("join", "answer", "reasoning"),
    }
    assert "visitor-7" in end.outputs["answer"]
    assert end.usage.completion_tokens == sum(stream.tokens_sent for stream in fake_openai.streams)


async def test_a_cut_reply_and_its_thinking_come_through_a_server(served_world: ServedWorld) -> None:
    text = "<think>hm</think>[[ ## reasoning ## ]]\nbecause it is"
    served_world.fake.reply(text=text, finish_reason="length")
    deltas, end = deltas_and_end(await heard(served_world, served_world.request(served_world.live.url)))
    assert (end.finish_reason, end.outputs) == ("length", {"reasoning": "because it is"})
    assert "".join(delta.text for delta in deltas if delta.field == "thinking") == "hm"


class Chatty(dspy.Module):
    """As MLflow's documentation writes a chat model."""

    def forward(self, messages: list[dict[str, str]]) -> dict[str, str]:
        return {"role": "assistant", "answer": f"{len(messages)} messages, last: {messages[-1]['content']}"}


async def test_a_version_of_plain_mlflow_is_asked_with_messages() -> None:
    lm = dspy.LM("openai/fake", api_base="http://u:p@host/v1", temperature=0.5)
    made = _of_another_tool("models:/theirs/1", Chatty(), lm=lm, adapter=None, own_lm=None)
    assert made.lm == LMChoice("openai/fake", "http://host/v1", temperature=0.5)
    history = dspy.History(messages=[{"question": "a", "answer": "b"}])
    result = await made.module.acall(**{made.spec.chat_field: "c", str(made.spec.history_field): history})
    assert result.answer == "3 messages, last: c"
    with pytest.raises(VersionNotServable, match="without a language model"):
        _of_another_tool("models:/theirs/1", Chatty(), lm=None, adapter=None, own_lm=None)
