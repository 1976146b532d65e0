"""The contract of our own routes."""

from __future__ import annotations

import asyncio
import json

import pytest

from dspy_demo.errors import (
    DemoError,
    EmptyReply,
    MalformedReply,
    UpstreamAuth,
    UpstreamCut,
    UpstreamRateLimited,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from dspy_demo.events import FieldDelta, Message, Status, TurnFinished, TurnStarted, Usage
from tests.api.conftest import LM, SilentBackend
from tests.scripted_backend import scripted_answer

JSON = {"Content-Type": "application/json"}
DEEP = '{"inputs":{"question":' + "[" * 500 + "]" * 500 + "}}"
BIG = '{"text":"' + "a" * 200_000 + '"}'


def events_of(text: str) -> list[dict]:
    """The events of a stream; it must end with the mark."""
    blocks = text.removesuffix("\n\n").split("\n\n")
    assert blocks[-1] == "data: [DONE]"
    return [json.loads(block.removeprefix("data: ")) for block in blocks[:-1]]


async def test_answers_with_every_output_field(make_client):
    client, _ = make_client([
        TurnStarted("local", "m"),
        TurnFinished({"reasoning": "r", "answer": "4"}, Usage(3, 2, 0.01), trace_id="tr-1"),
    ])  # fmt: skip
    response = await client.post("/predict", json={"text": "What is 2 + 2?"})
    body = response.json()
    assert response.status_code == 200
    assert body.pop("elapsed_s") >= 0
    assert body == {
        "status": "success",
        "data": {"reasoning": "r", "answer": "4"},
        "usage": {
            "prompt_tokens": 3,
            "completion_tokens": 2,
            "total_tokens": 5,
            "cost_usd": 0.01,
            "cached": False,
        },
        "trace_id": "tr-1",
        "finish_reason": "stop",
    }


async def test_streams_the_events_one_by_one(make_client):
    client, _ = make_client([
        TurnStarted("local", "m"),
        Status("calculator(2 + 2)", "pending", "t1"),
        FieldDelta("answer", "answer", "Grüße\n[[ 1 ]]", "predict"),
        TurnFinished({"answer": "Grüße\n[[ 1 ]]"}),
    ])  # fmt: skip
    response = await client.post("/predict/stream", json={"text": "hi"})
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["x-accel-buffering"] == "no"
    assert response.headers["cache-control"] == "no-cache"
    started, status, delta, final = events_of(response.text)
    assert started == {
        "type": "started",
        "backend": "local",
        "model": "m",
        "incremental": True,
        "trace_id": None,
    }
    assert status["key"] == "t1"
    assert delta == {
        "type": "delta",
        "field": "answer",
        "channel": "answer",
        "text": "Grüße\n[[ 1 ]]",
        "step": "predict",
    }
    assert final["type"] == "final"
    assert final["prediction"] == {"answer": "Grüße\n[[ 1 ]]"}


async def test_the_three_forms_of_a_question(make_client):
    client, recorder = make_client()
    chat = [("user", "a"), ("user", "b"), ("assistant", "c"), ("user", "d"), ("user", "e")]
    messages = [{"role": role, "content": text} for role, text in chat]
    for body in (
        {"text": "d\n\ne", "history": messages[:3]},
        {"messages": messages},
        {"inputs": {"question": "d\n\ne"}, "history": messages[:3]},
    ):
        assert (await client.post("/predict", json=body)).status_code == 200
        request = recorder.requests[-1]
        assert request.inputs == {"question": "d\n\ne"}
        assert request.history == (Message("user", "a\n\nb"), Message("assistant", "c"))


async def test_the_owners_model_answers_with_the_clients_parameters(make_client):
    client, recorder = make_client()
    await client.post("/predict", json={"text": "hi"})
    assert recorder.lm == LM
    await client.post(
        "/predict",
        json={"text": "hi", "temperature": 0, "max_tokens": 50, "cache": False, "session_id": "s.1"},
    )
    assert recorder.lm == type(LM)(LM.model, api_base=LM.api_base, temperature=0, max_tokens=50, cache=False)
    assert recorder.requests[-1].session_id == "s.1"
    for forbidden in ("lm", "model", "api_base", "api_key"):
        response = await client.post("/predict", json={"text": "hi", forbidden: "http://169.254.169.254"})
        assert response.status_code == 422
        assert response.json()["message"] == f"The field “{forbidden}” is not known here."


@pytest.mark.parametrize("reason", ["length", "content_filter"])
async def test_how_a_reply_ended_is_told(make_client, reason):
    client, _ = make_client([TurnStarted("local", "m"), TurnFinished({"answer": "1"}, finish_reason=reason)])
    whole = await client.post("/predict", json={"text": "hi"})
    assert (whole.status_code, whole.json()["finish_reason"]) == (200, reason)
    streamed = await client.post("/predict/stream", json={"text": "hi"})
    assert events_of(streamed.text)[-1]["finish_reason"] == reason


async def test_a_bound_beyond_all_models_is_no_error(make_client):
    client, recorder = make_client()
    assert (await client.post("/predict", json={"text": "hi", "max_tokens": 10**12})).status_code == 200
    assert recorder.lm.max_tokens == 200_000


async def test_a_program_can_be_named(make_client):
    client, recorder = make_client()
    body = {"program": "report", "inputs": {"topic": "bees", "words": 20}}
    assert (await client.post("/predict", json=body)).status_code == 200
    assert recorder.requests[-1].target.program == "report"
    response = await client.post("/predict", json={"text": "x", "program": "nope"})
    assert (response.status_code, response.json()["code"]) == (404, "not_found")


@pytest.mark.parametrize("path", ["/predict", "/predict/stream"])
@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ("", 422, "The body is empty; send a JSON object."),
        ("{", 422, "The body is not valid JSON."),
        ("[]", 422, "The body must be a JSON object."),
        ("null", 422, "The body must be a JSON object."),
        ("{}", 422, "Send exactly one of “text”, “messages” and “inputs”."),
        ('{"text":"a","inputs":{}}', 422, "Send exactly one of “text”, “messages” and “inputs”."),
        ('{"text":7}', 422, "The field “text” must be text."),
        ('{"text":" "}', 422, "The input “question” is empty. Fill it in and send again."),
        ('{"text":"a","temperature":9}', 422, "The field “temperature” must be at most 2."),
        ('{"text":"a","temperature":NaN}', 422, "The body is not valid JSON."),
        ('{"text":"a","max_tokens":1e400}', 422, "The body is not valid JSON."),
        ('{"text":"a","max_tokens":1.5}', 422, "The field “max_tokens” must be a whole number."),
        ('{"text":"\\ud800"}', 422, "The body is not valid JSON."),
        ('{"text":"a","{evil}":1}', 422, "The field “…” is not known here."),
        ('{"messages":[]}', 422, "The field “messages” must not be empty."),
        (
            '{"messages":[{"role":"system","content":"a"}]}',
            422,
            "The field “messages[0].role” must be 'user' or 'assistant'.",
        ),
        ('{"messages":[{"role":"user"}]}', 422, "The field “messages[0].content” is missing."),
        (
            '{"messages":[{"role":"assistant","content":"a"}]}',
            422,
            "The last of the “messages” must be the user's.",
        ),
        (DEEP, 422, "The body is nested more than 64 levels deep."),
        ('{"text":"' + "a" * 2000 + '"}', 413, None),
        (BIG, 413, "The body is larger than the limit of 73,536 bytes. Shorten it."),
    ],
)  # fmt: skip
async def test_a_bad_body_is_refused_with_one_sentence_before_any_model(
    make_client, path, body, status, message
):
    client, recorder = make_client(input_max_chars=1000)
    response = await client.post(path, content=body, headers=JSON)
    answer = response.json()
    assert response.status_code == status
    assert list(answer) == ["status", "code", "message", "retryable", "error_id"]
    assert answer["status"] == "error"
    assert message is None or answer["message"] == message
    assert not recorder.requests


async def test_a_body_without_a_length_is_bounded_while_it_is_read(make_client):
    client, _ = make_client(input_max_chars=1000)
    sent = 0

    async def endless():
        nonlocal sent
        for _ in range(1000):
            sent += 1
            yield b" " * 10_000

    response = await client.post("/predict", content=endless(), headers=JSON)
    assert response.status_code == 413


async def test_a_form_is_no_json(make_client):
    client, _ = make_client()
    for headers in (
        {},
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
    ):
        response = await client.post("/predict", content=b'{"text":"hi"}', headers=headers)
        assert (response.status_code, response.json()["code"]) == (415, "unsupported_media_type")


async def test_another_method_is_refused_in_the_same_shape(make_client):
    client, _ = make_client()
    response = await client.get("/predict")
    assert (response.status_code, response.headers["allow"]) == (405, "POST")
    assert response.json()["status"] == "error"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (UpstreamAuth(), 502),
        (UpstreamRateLimited(retry_after_s=6.2), 429),
        (UpstreamUnavailable(), 503),
        (UpstreamTimeout(), 504),
        (UpstreamCut(), 502),
        (MalformedReply(), 502),
        (EmptyReply(), 502),
        (DemoError(), 500),
    ],
    ids=lambda value: getattr(value, "code", value),
)
async def test_upstream_faults_have_a_status_and_end_a_stream(make_client, error, status):
    client, _ = make_client([TurnStarted("local", "m"), FieldDelta("answer", "answer", "Wa"), error])
    response = await client.post("/predict", json={"text": "hi"})
    assert response.status_code == status
    assert response.json() == {
        "status": "error",
        "code": error.code,
        "message": error.public_message,
        "retryable": error.retryable,
        "error_id": error.error_id,
    }
    assert response.headers.get("retry-after") == ("7" if error.retry_after_s else None)

    stream = await client.post("/predict/stream", json={"text": "hi"})
    assert stream.status_code == 200
    *_, delta, failed = events_of(stream.text)
    assert delta["text"] == "Wa"
    assert (failed["type"], failed["code"]) == ("error", error.code)


async def test_a_bug_is_a_500_without_its_words(make_client):
    def script(request):
        raise RuntimeError("secret sk-123")

    client, _ = make_client(script)
    response = await client.post("/predict", json={"text": "hi"})
    assert response.status_code == 500
    assert response.json()["code"] == "internal"
    assert "secret" not in response.text


async def test_too_many_turns_is_429(make_client):
    backend = SilentBackend()
    client, _ = make_client(backend, max_turns=1)
    first = asyncio.create_task(client.post("/predict", json={"text": "hi"}))
    while not backend.begun.is_set():
        await asyncio.sleep(0.01)
    for path in ("/predict", "/predict/stream"):
        response = await client.post(path, json={"text": "hi"})
        assert (response.status_code, response.json()["code"]) == (429, "busy")
    first.cancel()
    await asyncio.wait({first})
    assert backend.closed.is_set()


async def test_what_a_model_writes_is_always_json(make_client):
    outputs = {"answer": "\ud83d", "big": 2**70, "nan": float("nan"), "nested": [{"a": float("inf")}]}
    client, _ = make_client([
        TurnStarted("local", "m"),
        FieldDelta("answer", "answer", "\ud83d"),
        TurnFinished(outputs),
    ])  # fmt: skip
    body = (await client.post("/predict", json={"text": "hi"})).json()
    assert body["data"] == {"answer": "\ud83d", "big": 2**70, "nan": None, "nested": [{"a": None}]}
    stream = await client.post("/predict/stream", json={"text": "hi"})
    assert events_of(stream.text)[1]["text"] == "\ud83d"


async def test_a_cache_hit_streams_no_deltas_but_the_whole_answer(make_client):
    client, _ = make_client([TurnStarted("local", "m"), TurnFinished({"answer": "4"})])
    response = await client.post("/predict/stream", json={"text": "hi"})
    assert [event["type"] for event in events_of(response.text)] == ["started", "final"]


async def test_health_asks_no_model(make_client):
    client, recorder = make_client(scripted_answer("4"))
    body = (await client.get("/health")).json()
    assert body["status"] == "ok"
    assert body["version"]
    assert not recorder.requests
