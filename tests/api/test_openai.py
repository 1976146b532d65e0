"""The OpenAI SDK as a real client, over a real socket."""

from __future__ import annotations

import openai
import pytest

from dspy_demo.api import build_api
from dspy_demo.backends.scripted import ScriptedBackend, scripted_answer
from dspy_demo.errors import UpstreamAuth, UpstreamCut, UpstreamRateLimited
from dspy_demo.events import FieldDelta, Message, TurnFinished, TurnStarted, Usage
from tests.api.conftest import LM, Recorder, make_service

QUESTION = [{"role": "user", "content": "What is 2 + 2?"}]
STARTED = TurnStarted("local", "m")


@pytest.fixture
def make_sdk(serve):
    clients = []

    def make(script=None, **settings):
        script = scripted_answer("It is 4", reasoning="2 plus 2") if script is None else script
        recorder = Recorder(ScriptedBackend(script))
        server = serve(build_api(make_service(recorder, **settings), lambda: LM))
        clients.append(openai.OpenAI(base_url=server.url + "/v1", api_key="unused", max_retries=0))
        return clients[-1], recorder

    yield make
    for client in clients:
        client.close()


def read(stream):
    """Reasoning, content and finish reasons of a stream, and its chunks."""
    chunks = list(stream)
    choices = [choice for chunk in chunks for choice in chunk.choices]
    reasoning = "".join(getattr(choice.delta, "reasoning_content", None) or "" for choice in choices)
    content = "".join(choice.delta.content or "" for choice in choices)
    return reasoning, content, [choice.finish_reason for choice in choices if choice.finish_reason], chunks


def test_plain(make_sdk):
    sdk, recorder = make_sdk([STARTED, TurnFinished({"reasoning": "2 plus 2", "answer": "4"}, Usage(3, 2))])
    answer = sdk.chat.completions.create(
        model="qa",
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello"},
            {
                "role": "user",
                "content": [{"type": "text", "text": "What is"}, {"type": "text", "text": "2+2?"}],
            },
        ],
        temperature=0.1,
        max_completion_tokens=99,
        top_p=0.9,
        user="somebody",
        seed=1,
    )
    assert answer.model == "qa"
    assert answer.choices[0].message.content == "4"
    assert answer.choices[0].message.reasoning_content == "2 plus 2"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == 5
    assert recorder.requests[0].inputs == {"question": "What is\n2+2?"}
    assert recorder.requests[0].history == (Message("user", "Hi"), Message("assistant", "Hello"))
    assert (recorder.lm.temperature, recorder.lm.max_tokens) == (0.1, 99)
    assert recorder.lm.model == LM.model


def test_streaming(make_sdk):
    sdk, _ = make_sdk([
        STARTED,
        FieldDelta("reasoning", "reasoning", "2 plus", "predict"),
        FieldDelta("reasoning", "reasoning", " 2", "predict"),
        FieldDelta("answer", "answer", "It ", "predict"),
        FieldDelta("answer", "answer", "is 4", "predict"),
        TurnFinished({"reasoning": "2 plus 2", "answer": "It is 4"}, Usage(3, 2)),
    ])  # fmt: skip
    stream = sdk.chat.completions.create(
        model="qa", messages=QUESTION, stream=True, stream_options={"include_usage": True}
    )
    reasoning, content, finish, chunks = read(stream)
    assert (reasoning, content, finish) == ("2 plus 2", "It is 4", ["stop"])
    assert chunks[0].choices[0].delta.role == "assistant"
    assert len({chunk.id for chunk in chunks}) == 1
    assert [chunk.usage.total_tokens for chunk in chunks if chunk.usage] == [5]
    assert chunks[-1].choices == []
    assert len(chunks) == 7


def test_a_cache_hit_arrives_whole(make_sdk):
    sdk, _ = make_sdk([STARTED, TurnFinished({"reasoning": "r", "answer": "4"})])
    reasoning, content, finish, chunks = read(
        sdk.chat.completions.create(model="qa", messages=QUESTION, stream=True)
    )
    assert (reasoning, content, finish) == ("r", "4", ["stop"])
    assert not any(chunk.usage for chunk in chunks)


def delta(text, field="answer", step="predict", channel="answer"):
    return FieldDelta(field, channel, text, step)


@pytest.mark.parametrize(
    ("program", "deltas", "outputs", "expected"),
    [
        ("qa", [delta("4")], {"answer": "5"}, "4\n\n5"),
        ("qa", [delta("4")], {"answer": 4}, "4"),
        ("qa", [delta("[1, 2]")], {"answer": [1, 2]}, "[1, 2]"),
        ("qa", [delta("True")], {"answer": True}, "True"),
        ("qa", [delta("draft"), delta("4", step="predict#2")], {"answer": "4"}, "draft\n\n4"),
        (
            "report",
            [delta("Bees", "title"), delta('["a"', "tags"), delta("]", "tags")],
            {"title": "Bees", "tags": ["a"]},
            'title: Bees\n\ntags: ["a"]',
        ),
        ("report", [delta("Bees", "title")], {"title": "Bees", "tags": []}, "title: Bees\n\ntags: []"),
        ("report", [], {"title": "Bees", "tags": ["a", 1]}, 'title: Bees\n\ntags: ["a",1]'),
        ("custom", [delta("a", "x"), delta("b", "y")], {"x": "a", "y": "b"}, "a\n\ny: b"),
        ("custom", [], {"reasoning": "r", "x": "a"}, "a"),
        ("qa", [], {"answer": ""}, ""),
    ],
)
def test_the_content_ends_with_the_final_answer(make_sdk, program, deltas, outputs, expected):
    sdk, _ = make_sdk([STARTED, *deltas, TurnFinished(outputs)])
    _, content, finish, _ = read(sdk.chat.completions.create(model=program, messages=QUESTION, stream=True))
    assert (content, finish) == (expected, ["stop"])


def test_steps_and_tools_are_reasoning(make_sdk):
    sdk, _ = make_sdk([
        STARTED,
        delta("Calculate.", "next_thought", "react", "reasoning"),
        delta("calculator", "next_tool_name", "react", "tool"),
        delta("4"),
        TurnFinished({"trajectory": {"thought_0": "Calculate."}, "answer": "4"}),
    ])  # fmt: skip
    stream = sdk.chat.completions.create(model="qa", messages=QUESTION, stream=True)
    reasoning, content, _, _ = read(stream)
    assert (reasoning, content) == ("Calculate.\n\ncalculator", "4")
    assert sdk.chat.completions.create(model="qa", messages=QUESTION).choices[0].message.content == "4"


def test_models(make_sdk):
    sdk, _ = make_sdk()
    assert [model.id for model in sdk.models.list()] == ["qa", "report", "custom"]
    assert sdk.models.retrieve("qa").object == "model"
    with pytest.raises(openai.NotFoundError) as caught:
        sdk.models.retrieve("gpt-4o")
    assert caught.value.code == "model_not_found"


def test_an_unknown_model_is_404_in_openais_shape(make_sdk):
    sdk, recorder = make_sdk()
    with pytest.raises(openai.NotFoundError) as caught:
        sdk.chat.completions.create(model="gpt-4o", messages=QUESTION)
    assert caught.value.code == "model_not_found"
    assert caught.value.type == "invalid_request_error"
    assert "gpt-4o" in caught.value.body["message"]
    assert not recorder.requests


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({"n": 2}, "“n” must be 1"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "its own tools"),
        ({"functions": [{"name": "f"}]}, "its own tools"),
        ({"modalities": ["text", "audio"]}, "Only text"),
        ({"audio": {"voice": "alloy", "format": "wav"}}, "Audio"),
        ({"logprobs": True}, "Log probabilities"),
        ({"response_format": {"type": "json_object"}}, "form of its answer"),
        ({"temperature": 3}, "“temperature” must be at most 2"),
        ({"max_tokens": 0}, "“max_tokens” must be at least 1"),
        ({"messages": [{"role": "assistant", "content": "hi"}]}, "must be the user's"),
        ({"messages": [{"role": "system", "content": "hi"}]}, "must be the user's"),
        ({"messages": [{"role": "tool", "content": "hi", "tool_call_id": "1"}]}, "its own tools"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "Only text",
        ),
        ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content"),
        ({"messages": []}, "“messages” must not be empty"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_what_cannot_be_done_is_refused_with_a_sentence(make_sdk, extra, words):
    sdk, recorder = make_sdk()
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        sdk.chat.completions.create(**({"model": "qa", "messages": QUESTION} | extra))
    assert words in caught.value.body["message"]
    assert not recorder.requests


def test_an_input_over_the_limit_is_413(make_sdk):
    sdk, recorder = make_sdk(input_max_chars=5)
    with pytest.raises(openai.APIStatusError) as caught:
        sdk.chat.completions.create(model="qa", messages=QUESTION, stream=True)
    assert caught.value.status_code == 413
    assert not recorder.requests


def test_upstream_faults(make_sdk):
    sdk, _ = make_sdk([STARTED, UpstreamRateLimited(retry_after_s=3)])
    with pytest.raises(openai.RateLimitError) as limited:
        sdk.chat.completions.create(model="qa", messages=QUESTION)
    assert limited.value.response.headers["retry-after"] == "3"


def test_the_sdk_does_not_repeat_what_cannot_help(make_sdk):
    sdk, recorder = make_sdk([STARTED, UpstreamAuth()])
    with pytest.raises(openai.InternalServerError) as caught:
        sdk.with_options(max_retries=2).chat.completions.create(model="qa", messages=QUESTION)
    assert caught.value.status_code == 502
    assert len(recorder.requests) == 1


def test_a_failure_in_the_middle_of_a_stream_is_an_error_of_the_sdk(make_sdk):
    sdk, _ = make_sdk([STARTED, delta("Wa"), UpstreamCut()])
    content = ""
    with pytest.raises(openai.APIError, match="stopped in the middle"):
        for chunk in sdk.chat.completions.create(model="qa", messages=QUESTION, stream=True):
            content += chunk.choices[0].delta.content or ""
    assert content == "Wa"
