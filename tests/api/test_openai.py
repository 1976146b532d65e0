"""The OpenAI SDK as a real client, over a real socket."""

import json

import openai
import pytest

from dspy_demo.errors import UpstreamAuth, UpstreamCut, UpstreamRateLimited
from dspy_demo.events import FieldDelta, TurnFinished, Usage
from tests.api.conftest import LM, STARTED, Api, LiveServer
from tests.services import conversation

QUESTION = [{"role": "user", "content": "What is 2 + 2?"}]
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
BEES = {"title": "Bees", "tags": ["a"]}
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 6_000_000}}


def schema_of(*properties):
    schema = {"type": "object", "properties": {name: {"type": "string"} for name in properties}}
    return {"type": "json_schema", "json_schema": {"name": "Answer", "strict": True, "schema": schema}}


def said(text):
    return {"role": "assistant", "content": text}


def delta(text, field="answer", step="predict", channel="answer"):
    return FieldDelta(field, channel, text, step)


@pytest.fixture(scope="module")
def make_sdk():
    """A client of one server, whose service is replaced by each test."""
    app = Api().app
    with LiveServer(app) as server, openai.OpenAI(base_url=server.url + "/v1", api_key="unused") as client:

        def make(*events, max_retries=0):
            api = Api(list(events))
            app.state.service = api.service
            return client.with_options(max_retries=max_retries), api

        yield make


def ask(sdk, model="qa", stream=True, **more):
    """Reasoning, content and finish reason of an answer, and its chunks; the whole one is a single chunk."""
    answer = sdk.chat.completions.create(**{"model": model, "messages": QUESTION, "stream": stream} | more)
    chunks = list(answer) if stream else [answer]
    choices = [choice for chunk in chunks for choice in chunk.choices]
    parts = [choice.delta if stream else choice.message for choice in choices]
    reasoning = "".join(getattr(part, "reasoning_content", None) or "" for part in parts)
    content = "".join(part.content or "" for part in parts)
    [finish] = [choice.finish_reason for choice in choices if choice.finish_reason]
    return reasoning, content, finish, chunks


def test_a_whole_answer(make_sdk):
    sdk, api = make_sdk(STARTED, TurnFinished({"reasoning": "2 plus 2", "answer": "4"}, Usage(3, 2)))
    parts = [{"type": "text", "text": "What is"}, {"type": "text", "text": "2+2?"}]
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}, said("Hello")]
    changes = {"temperature": 0.1, "max_completion_tokens": 10_000_000}
    ignored = {"top_p": 0.9, "user": "somebody", "tools": TOOLS * 36, "tool_choice": "auto"}
    messages = [*chat, {"role": "user", "content": parts}]
    reasoning, content, finish, [answer] = ask(sdk, stream=False, messages=messages, **changes, **ignored)
    assert (reasoning, content, finish) == ("2 plus 2", "4", "stop")
    assert (answer.model, answer.usage.total_tokens) == ("qa", 5)
    [request] = api.requests
    lm = request.target.lm
    assert (request.inputs, request.history) == ({"question": "What is\n2+2?"}, conversation("Hi", "Hello"))
    assert (lm.model, lm.temperature, lm.max_tokens) == (LM.model, 0.1, 200_000)


def test_a_streamed_answer(make_sdk):
    sdk, _ = make_sdk(
        STARTED,
        delta("Calculate.", "next_thought", "react", "reasoning"),
        delta("calcu", "next_tool_name", "react", "tool"),
        delta("lator", "next_tool_name", "react", "tool"),
        delta("It "),
        delta("is 4"),
        TurnFinished({"trajectory": {}, "answer": "It is 4"}, Usage(3, 2), finish_reason="length"),
    )
    reasoning, content, finish, chunks = ask(sdk, stream_options={"include_usage": True})
    assert (reasoning, content, finish) == ("Calculate.\n\ncalculator", "It is 4", "length")
    assert chunks[0].choices[0].delta.role == "assistant"
    assert len({chunk.id for chunk in chunks}) == 1
    assert [chunk.usage.total_tokens for chunk in chunks if chunk.usage] == [5]
    assert (chunks[-1].choices, len(chunks)) == ([], 8)


@pytest.mark.parametrize(
    ("program", "deltas", "outputs", "expected"),
    [
        ("qa", [delta("4")], {"answer": "5"}, "4\n\n5"),
        ("qa", [delta("4")], {"answer": 4}, "4"),
        ("qa", [delta("draft"), delta("4", step="predict#2")], {"answer": "4"}, "draft\n\n4"),
        ("report", [delta("Bees", "title"), delta('["a"]', "tags")], BEES, 'title: Bees\n\ntags: ["a"]'),
        ("custom", [delta("a", "x"), delta("b", "y")], {"x": "a", "y": "b"}, "a\n\ny: b"),
        ("custom", [], {"reasoning": "r", "x": "a"}, "a"),
    ],
)
def test_the_content_ends_with_the_final_answer(make_sdk, program, deltas, outputs, expected):
    sdk, _ = make_sdk(STARTED, *deltas, TurnFinished(outputs))
    assert ask(sdk, program)[:3] == (outputs.get("reasoning", ""), expected, "stop")


def test_models_and_other_addresses(make_sdk):
    sdk, api = make_sdk()
    assert [model.id for model in sdk.models.list()] == ["qa", "report", "custom"]
    assert sdk.models.retrieve("qa").object == "model"
    for call in (lambda: sdk.models.retrieve("gpt-4o"), lambda: ask(sdk, "gpt-4o")):
        with pytest.raises(openai.NotFoundError, match="gpt-4o") as caught:
            call()
        assert (caught.value.code, caught.value.type) == ("not_found", "invalid_request_error")
    with pytest.raises(openai.NotFoundError, match="/docs shows the routes"):
        sdk.embeddings.create(model="qa", input="x")
    assert not api.requests


REFUSED = [
    ({"n": 2}, "“n”"),
    ({"tools": TOOLS, "tool_choice": "required"}, "“tool_choice”"),
    ({"temperature": 3}, "less than or equal to 2"),
    ({"messages": [*QUESTION, said("It")]}, "cannot be continued here"),
    ({"messages": [{"role": "user", "content": [PICTURE]}]}, "Only text"),
    ({"model": "report", "response_format": schema_of("title", "author")}, "title, tags"),
    ({"model": "custom", "response_format": schema_of("title")}, "not known"),
]


def test_what_cannot_be_done_is_refused_with_a_sentence(make_sdk):
    sdk, api = make_sdk()
    for asked, words in REFUSED:
        with pytest.raises(openai.UnprocessableEntityError) as refused:
            ask(sdk, **asked)
        assert words in refused.value.body["message"]
    with pytest.raises(openai.APIStatusError) as long:
        ask(sdk, messages=[{"role": "user", "content": "A" * 6_000_000}])
    assert (long.value.status_code, long.value.code) == (413, "input_too_long")
    assert not api.requests


def test_what_cannot_be_read_in_earlier_messages_is_left_out(make_sdk):
    sdk, api = make_sdk()
    earlier = [
        {"role": "user", "content": [{"type": "text", "text": "Look"}, PICTURE]},
        said("A cat."),
        {"role": "user", "content": "How warm is it?"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "1", "content": [{"type": "json", "json": 20}]},
        said("20 degrees."),
        {"role": "user", "content": "Do harm"},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
        said("Something else?"),
    ]
    ask(sdk, messages=[*earlier, *QUESTION])
    texts = ["Look", "A cat.", "How warm is it?", "20 degrees.", "Do harm", "Something else?"]
    [request] = api.requests
    assert (request.history, request.inputs) == (conversation(*texts), {"question": "What is 2 + 2?"})


@pytest.mark.parametrize("stream", [False, True])
def test_structured_output_is_the_fields_as_json(make_sdk, stream):
    sdk, _ = make_sdk(STARTED, delta("Be", "title"), delta("es", "title"), TurnFinished(BEES))
    for form, fields in (({"type": "json_object"}, ("title", "tags")), (schema_of("title"), ("title",))):
        answer = ask(sdk, "report", stream, response_format=form)
        assert json.loads(answer[1]) == {name: BEES[name] for name in fields}


@pytest.mark.parametrize(
    ("stop", "deltas", "expected"),
    [
        ("END", ["one E", "N", "D two"], "one "),
        (["two three", "e t", ""], ["one t", "wo three"], "on"),
        ("EN", ["one E", "and E"], "one Eand E"),
    ],
)
def test_the_content_ends_before_a_stop_text(make_sdk, stop, deltas, expected):
    sdk, _ = make_sdk(STARTED, *map(delta, deltas), TurnFinished({"answer": "".join(deltas)}))
    for stream in (False, True):
        assert ask(sdk, stream=stream, stop=stop)[1:3] == (expected, "stop")


def test_faults_raise_the_sdks_own_errors_and_are_not_repeated_in_vain(make_sdk):
    sdk, _ = make_sdk(STARTED, UpstreamRateLimited(retry_after_s=3))
    with pytest.raises(openai.RateLimitError) as limited:
        ask(sdk, stream=False)
    assert limited.value.response.headers["retry-after"] == "3"
    sdk, api = make_sdk(STARTED, UpstreamAuth(), max_retries=2)
    with pytest.raises(openai.InternalServerError):
        ask(sdk, stream=False)
    assert len(api.requests) == 1
    sdk, _ = make_sdk(STARTED, delta("Wa"), UpstreamCut())
    stream, chunks = sdk.chat.completions.create(model="qa", messages=QUESTION, stream=True), []
    with pytest.raises(openai.APIError, match="stopped in the middle"):
        chunks.extend(stream)
    assert chunks[-1].choices[0].delta.content == "Wa"
