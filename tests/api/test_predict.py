"""The contract of our own routes."""

from __future__ import annotations

import json

import httpx
import pytest

from dspy_demo.api.routes import build_api
from dspy_demo.chat import ChatService
from dspy_demo.errors import UpstreamAuth, UpstreamRateLimited
from dspy_demo.events import FieldDelta, Message, TurnFinished, TurnStarted
from dspy_demo.guests.allowance import Allowance
from dspy_demo.lm.choices import Detection, LMOption
from dspy_demo.programs.registry import ProgramRegistry
from dspy_demo.settings import Settings
from dspy_demo.web.middleware import BODY_MAX_BYTES, ModelServerMiddleware
from tests.api.conftest import LM, PROGRAMS, Recorder, behind_guard
from tests.scripted_backend import ScriptedBackend, scripted_answer
from tests.visitors import OWNER, STRANGER

JSON = {"Content-Type": "application/json"}
NOT_JSON = "The body must be a JSON object, not nested too deeply, sent as"
ONE_FORM = "Send exactly one of “text”, “messages” and “inputs”."
STARTED = TurnStarted("local", "m")


def events_of(text: str) -> list[dict]:
    """The events of a stream; it must end with the mark."""
    blocks = text.removesuffix("\n\n").split("\n\n")
    assert blocks[-1] == "data: [DONE]"
    return [json.loads(block.removeprefix("data: ")) for block in blocks[:-1]]


async def test_the_three_forms_of_a_question_and_a_program_by_name(make_client):
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
    assert (await client.post("/predict", json={"program": "report", "text": "bees"})).status_code == 200
    assert recorder.requests[-1].target.program == "report"
    response = await client.post("/predict", json={"text": "x", "program": "nope"})
    assert (response.status_code, response.json()["code"]) == (404, "not_found")


async def test_the_owners_model_answers_with_the_clients_parameters(make_client):
    client, recorder = make_client()
    await client.post("/predict", json={"text": "hi"})
    assert recorder.lm == LM
    changes = {"temperature": 0, "max_tokens": 10**12, "cache": False}
    await client.post("/predict", json={"text": "hi", "session_id": "s.1"} | changes)
    assert recorder.lm == type(LM)(LM.model, LM.api_base, temperature=0, max_tokens=200_000, cache=False)
    assert recorder.requests[-1].session_id == "s.1"
    for forbidden in ("lm", "model", "api_base", "api_key"):
        response = await client.post("/predict", json={"text": "hi", forbidden: "http://169.254.169.254"})
        assert f"The field “{forbidden}” is not valid: extra inputs" in response.json()["message"]


BAD = [
    ("{", 422, NOT_JSON),
    ('{"text":"a","temperature":NaN}', 422, NOT_JSON),
    ("[]", 422, NOT_JSON),
    ("{}", 422, ONE_FORM),
    ('{"text":7}', 422, "The field “text” is not valid: input should be a valid string."),
    ('{"text":" "}', 422, "The input “question” is empty. Fill it in and send again."),
    ('{"text":"a","{evil}":1}', 422, "The field “…” is not valid: extra inputs"),
    ('{"messages":[{"role":"system","content":"a"}]}', 422, "messages.0.role” is not valid: input"),
    ('{"messages":[{"role":"assistant","content":"a"}]}', 422, "The last of the “messages” must be the"),
    ('{"text":"' + "a" * 2000 + '"}', 413, "The input has 2,000 characters"),
]


@pytest.mark.parametrize("path", ["/predict", "/predict/stream"])
async def test_a_bad_body_is_refused_with_one_sentence_before_any_model(make_client, path):
    client, recorder = make_client(input_max_chars=1000)
    for body, status, message in BAD:
        response = await client.post(path, content=body, headers=JSON)
        answer = response.json()
        assert response.status_code == status, body
        assert list(answer) == ["status", "code", "message", "retryable", "error_id"]
        assert message in answer["message"] and answer["message"].endswith(".")
    assert not recorder.requests


async def test_a_long_body_is_refused_by_its_length_or_while_it_is_read(make_client):
    client, recorder = make_client()
    sent = []

    async def endless():
        for number in range(100):
            sent.append(number)
            yield b" " * 1_000_000

    app = ModelServerMiddleware(build_api(recorder.service, lambda: LM), host="127.0.0.1")
    server = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost")
    declared = JSON | {"Content-Length": str(BODY_MAX_BYTES + 1)}
    for response in (
        await client.post("/predict", content=endless(), headers=JSON),
        await server.post("/predict", content=b"{", headers=declared),
    ):
        assert (response.status_code, response.json()["code"]) == (413, "body_too_large")
    assert len(sent) < 20


async def test_a_form_another_method_or_address_is_refused_in_the_same_shape(make_client):
    client, _ = make_client()
    for type_ in ("", "text/plain", "application/x-www-form-urlencoded", ";;=,"):
        response = await client.post("/predict", content=b'{"text":"hi"}', headers={"Content-Type": type_})
        assert (response.status_code, response.json()["code"]) == (422, "invalid_input")
    for response in (await client.get("/predict"), await client.get("/nowhere")):
        assert (response.status_code, response.json()["code"]) == (404, "not_found")


FAULTS = [(UpstreamRateLimited(retry_after_s=6.2), 429), (UpstreamAuth(), 502)]


@pytest.mark.parametrize(("error", "status"), FAULTS)
async def test_a_fault_has_a_status_and_ends_a_stream(make_client, error, status):
    client, _ = make_client([STARTED, FieldDelta("answer", "answer", "Wa"), error])
    response = await client.post("/predict", json={"text": "hi"})
    body = response.json()
    assert body.pop("error_id")
    about = {"code": error.code, "message": error.public_message, "retryable": error.retryable}
    assert (response.status_code, body) == (status, {"status": "error"} | about)
    assert response.headers.get("retry-after") == ("7" if error.retry_after_s else None)
    stream = await client.post("/predict/stream", json={"text": "hi"})
    assert (stream.headers["x-accel-buffering"], stream.headers["cache-control"]) == ("no", "no-cache")
    *_, delta, failed = events_of(stream.text)
    assert (stream.status_code, delta["text"]) == (200, "Wa")
    assert (failed["type"], failed["code"]) == ("error", error.code)


async def test_what_a_model_writes_is_always_json(make_client):
    outputs = {"answer": "\ud83d", "big": 2**70, "nan": float("nan"), "nested": [{"a": float("inf")}]}
    client, _ = make_client([STARTED, FieldDelta("answer", "answer", "\ud83d"), TurnFinished(outputs)])
    body = (await client.post("/predict", json={"text": "hi"})).json()
    assert body["data"] == {"answer": "\ud83d", "big": 2**70, "nan": None, "nested": [{"a": None}]}
    stream = await client.post("/predict/stream", json={"text": "hi"})
    assert events_of(stream.text)[1]["text"] == "\ud83d"


async def test_a_guest_is_answered_by_the_guests_model_and_the_owner_by_the_owners():
    settings = Settings(guest_models="demo/engine", guest_programs="report")
    options = (LMOption(LM.model, "Large"), LMOption("demo/engine", "Demo"))
    allowance = Allowance(settings, PROGRAMS, Detection(LM, "", options))
    recorder = Recorder(ScriptedBackend(scripted_answer("4")))
    service = ChatService(settings, ProgramRegistry(PROGRAMS), recorder, allowance=allowance)
    for visitor, model, program in ((STRANGER, "demo/engine", "report"), (OWNER, LM.model, "qa")):
        app = behind_guard(build_api(service, lambda: LM), visitor)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            assert (await client.post("/predict", json={"text": "hi"})).status_code == 200
        assert (recorder.lm.model, recorder.requests[-1].target.program) == (model, program)
