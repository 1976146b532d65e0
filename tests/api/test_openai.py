"""The OpenAI SDK as a real client, over a real socket."""

from __future__ import annotations

import json

import openai
import pytest

from dspy_demo.api import build_api
from dspy_demo.errors import UpstreamAuth, UpstreamCut, UpstreamRateLimited
from dspy_demo.events import FieldDelta, Message, TurnFinished, TurnStarted, Usage
from tests.api.conftest import LM, Recorder, SilentBackend, make_service
from tests.scripted_backend import ScriptedBackend, scripted_answer

QUESTION = [{"role": "user", "content": "What is 2 + 2?"}]
STARTED = TurnStarted("local", "m")
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]


def allowed_tools(mode):
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": TOOLS}}


def schema_of(*properties):
    schema = {"type": "object", "properties": {name: {"type": "string"} for name in properties}}
    return {"type": "json_schema", "json_schema": {"name": "Answer", "strict": True, "schema": schema}}


def said(text):
    return {"role": "assistant", "content": text}


def include_usage(stream):
    return {"include_usage": True} if stream else openai.NOT_GIVEN


@pytest.fixture
def make_sdk(serve):
    clients = []

    def make(script=None, **settings):
        script = scripted_answer("It is 4", reasoning="2 plus 2") if script is None else script
        recorder = Recorder(script if hasattr(script, "stream") else ScriptedBackend(script))
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
        ({"tools": TOOLS, "tool_choice": "required"}, "its own tools"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "f"}}}, "its own tools"),
        ({"tools": TOOLS, "tool_choice": allowed_tools("required")}, "its own tools"),
        ({"functions": [{"name": "f"}], "function_call": {"name": "f"}}, "its own tools"),
        ({"modalities": ["text", "audio"]}, "Only text"),
        ({"audio": {"voice": "alloy", "format": "wav"}}, "“audio”"),
        ({"logprobs": True}, "Log probabilities"),
        ({"temperature": 3}, "less than or equal to 2"),
        ({"max_tokens": 0}, "greater than or equal to 1"),
        ({"messages": [*QUESTION, {"role": "assistant", "content": "It"}]}, "cannot be continued here"),
        ({"messages": [{"role": "system", "content": "hi"}]}, "must be the user's"),
        ({"messages": [{"role": "tool", "content": "hi", "tool_call_id": "1"}]}, "its own tools"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "Only text",
        ),
        ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content"),
        ({"messages": []}, "at least 1 item"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "at most 4 items"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_what_cannot_be_done_is_refused_with_a_sentence(make_sdk, extra, words):
    sdk, recorder = make_sdk()
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        sdk.chat.completions.create(**({"model": "qa", "messages": QUESTION} | extra))
    assert words in caught.value.body["message"]
    assert not recorder.requests


@pytest.mark.parametrize(
    "offer",
    [
        {"tools": TOOLS * 36, "parallel_tool_calls": True},
        {"tools": TOOLS, "tool_choice": "auto"},
        {"tools": TOOLS, "tool_choice": "none"},
        {"tools": TOOLS, "tool_choice": allowed_tools("auto")},
        {"functions": [{"name": "f"}], "function_call": "auto"},
    ],
    ids=["36 tools", "auto", "none", "allowed tools", "functions"],
)
@pytest.mark.parametrize("stream", [False, True])
def test_tools_that_are_offered_are_left_aside(make_sdk, offer, stream):
    sdk, _ = make_sdk([STARTED, delta("It is 4"), TurnFinished({"answer": "It is 4"})])
    answer = sdk.chat.completions.create(model="qa", messages=QUESTION, stream=stream, **offer)
    assert (read(answer)[1] if stream else answer.choices[0].message.content) == "It is 4"


PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("earlier", "history"),
    [
        (
            [{"role": "user", "content": [{"type": "text", "text": "Look"}, PICTURE]}, said("A cat.")],
            [Message("user", "Look"), Message("assistant", "A cat.")],
        ),
        (
            [{"role": "user", "content": [PICTURE]}, said("A cat.")],
            [Message("assistant", "A cat.")],
        ),
        (
            [
                {"role": "user", "content": "How warm is it?"},
                {"role": "assistant", "content": None, "tool_calls": [CALL]},
                {"role": "tool", "tool_call_id": "1", "content": [{"type": "json", "json": 20}]},
                {"role": "function", "name": "f", "content": "20"},
                said("20 degrees."),
            ],
            [Message("user", "How warm is it?"), Message("assistant", "20 degrees.")],
        ),
        (
            [
                {"role": "user", "content": "Do harm"},
                {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
                {"role": "assistant", "content": 5},
                said("Something else?"),
            ],
            [Message("user", "Do harm"), Message("assistant", "Something else?")],
        ),
    ],
    ids=["a picture", "a picture alone", "tools", "a refusal"],
)
def test_what_cannot_be_read_in_earlier_messages_is_left_out(make_sdk, earlier, history):
    sdk, recorder = make_sdk()
    sdk.chat.completions.create(model="qa", messages=[*earlier, *QUESTION])
    assert recorder.requests[-1].history == tuple(history)
    assert recorder.requests[-1].inputs == {"question": "What is 2 + 2?"}


def test_an_earlier_picture_may_be_as_large_as_pictures_are(make_sdk):
    sdk, recorder = make_sdk()
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 3_000_000}}
    document = {"type": "file", "file": {"file_data": "data:application/pdf;base64," + "A" * 3_000_000}}
    earlier = [
        {"role": "user", "content": [{"type": "text", "text": "Look"}, picture, document]},
        said("Hm."),
    ]
    sdk.chat.completions.create(model="qa", messages=[*earlier, *QUESTION])
    assert recorder.requests[-1].history == (Message("user", "Look"), Message("assistant", "Hm."))
    for too_long in ([{"role": "user", "content": "A" * 6_000_000}], [*earlier, *earlier, *QUESTION]):
        with pytest.raises(openai.APIStatusError) as caught:
            sdk.chat.completions.create(model="qa", messages=too_long)
        assert caught.value.status_code == 413


REPORT = {"reasoning": "r", "title": "Bees", "tags": ["a", 1]}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("response_format", "expected"),
    [
        ({"type": "json_object"}, {"title": "Bees", "tags": ["a", 1]}),
        (schema_of("tags", "title"), {"title": "Bees", "tags": ["a", 1]}),
        (schema_of("title"), {"title": "Bees"}),
        ({"type": "text"}, None),
    ],
)
def test_structured_output_is_the_fields_as_json(make_sdk, response_format, expected, stream):
    sdk, _ = make_sdk([STARTED, delta("Be", "title"), delta("es", "title"), TurnFinished(REPORT)])
    answer = sdk.chat.completions.create(
        model="report", messages=QUESTION, response_format=response_format, stream=stream
    )
    content = read(answer)[1] if stream else answer.choices[0].message.content
    if expected is None:
        assert content.startswith("title: Bees")
    else:
        assert json.loads(content) == expected


@pytest.mark.parametrize(
    ("program", "response_format"),
    [
        ("report", schema_of("title", "author")),
        ("report", {"type": "json_schema", "json_schema": {"name": "A", "schema": {"type": "array"}}}),
        ("report", {"type": "grammar"}),
        ("report", "json"),
        ("custom", schema_of("title")),
    ],
)
def test_a_form_that_the_program_has_not_is_refused(make_sdk, program, response_format):
    sdk, recorder = make_sdk()
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.chat.completions.create(model=program, messages=QUESTION, response_format=response_format)
    assert caught.value.param == "response_format"
    assert ("title”, “tags" if program == "report" else "json_object") in caught.value.body["message"]
    assert not recorder.requests


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("stop", "deltas", "expected"),
    [
        ("END", ["one E", "N", "D two"], "one "),
        (["zz", "two"], ["one two three"], "one "),
        (["two three", "e t"], ["one t", "wo three"], "on"),
        ("EN", ["one E", "and E"], "one Eand E"),
        (["", "four"], ["one two"], "one two"),
        ("o", ["one"], ""),
    ],
)
def test_the_content_ends_before_a_stop_text(make_sdk, stop, deltas, expected, stream):
    sdk, _ = make_sdk([STARTED, *map(delta, deltas), TurnFinished({"answer": "".join(deltas)})])
    answer = sdk.chat.completions.create(model="qa", messages=QUESTION, stop=stop, stream=stream)
    if stream:
        _, content, finish, _ = read(answer)
    else:
        content, finish = answer.choices[0].message.content, [answer.choices[0].finish_reason]
    assert (content, finish) == (expected, ["stop"])


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_text_ends_the_turn_behind_it(make_sdk, stream):
    silent = SilentBackend()  # says “Wait”, and would never end
    sdk, _ = make_sdk(silent)
    answer = sdk.chat.completions.create(
        model="qa", messages=QUESTION, stop="it", stream=stream, stream_options=include_usage(stream)
    )
    content = read(answer)[1] if stream else answer.choices[0].message.content
    assert content == "Wa"
    assert silent.closed.wait(5)


def test_what_was_held_back_comes_before_a_failure(make_sdk):
    sdk, _ = make_sdk([STARTED, delta("Wa"), UpstreamCut()])
    content = ""
    with pytest.raises(openai.APIError, match="stopped in the middle"):
        for chunk in sdk.chat.completions.create(model="qa", messages=QUESTION, stream=True, stop="ait"):
            content += chunk.choices[0].delta.content or ""
    assert content == "Wa"


def test_a_stop_text_in_an_answer_that_came_whole(make_sdk):
    sdk, _ = make_sdk([STARTED, TurnFinished({"answer": "one two"}, Usage(3, 2))])
    answer = sdk.chat.completions.create(model="qa", messages=QUESTION, stop=" two")
    assert (answer.choices[0].message.content, answer.usage.total_tokens) == ("one", 5)


@pytest.mark.parametrize("reason", ["length", "content_filter"])
@pytest.mark.parametrize("stream", [False, True])
def test_how_a_reply_ended_is_told(make_sdk, reason, stream):
    sdk, _ = make_sdk([STARTED, delta("One two"), TurnFinished({"answer": "One two"}, finish_reason=reason)])
    answer = sdk.chat.completions.create(model="qa", messages=QUESTION, stream=stream)
    if stream:
        _, content, finish, _ = read(answer)
    else:
        content, finish = answer.choices[0].message.content, [answer.choices[0].finish_reason]
    assert (content, finish) == ("One two", [reason])


def test_a_bound_beyond_all_models_is_no_error(make_sdk):
    sdk, recorder = make_sdk()
    sdk.chat.completions.create(model="qa", messages=QUESTION, max_tokens=10_000_000)
    assert recorder.lm.max_tokens == 200_000


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("POST", "/v1/responses", 404, None),
        ("POST", "/v1/embeddings", 404, None),
        ("DELETE", "/v1/files/file-1", 404, None),
        ("GET", "/v1", 404, None),
        ("GET", "/v1/chat/completions", 405, "POST"),
        ("DELETE", "/v1/models/qa", 405, "GET"),
        ("POST", "/v1/models", 405, "GET"),
    ],
)
async def test_other_addresses_and_methods_are_refused_in_openais_form(
    make_client, method, path, status, allow
):
    client, _ = make_client()
    refused = await client.request(method, path, json={} if method == "POST" else None)
    error = refused.json()["error"]
    assert (refused.status_code, refused.headers.get("allow")) == (status, allow)
    assert (error["type"], refused.headers["x-should-retry"]) == ("invalid_request_error", "false")
    assert status == 405 or "/v1/chat/completions" in error["message"]


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
