"""The contract of our own routes, and what says how the app is: ready, and the id of a turn."""

import dataclasses
import json
import logging

import pytest

from dspy_demo.api.ops import NOT_READY
from dspy_demo.errors import ModelSetupError, TrackingUnavailable, UpstreamAuth, UpstreamRateLimited
from dspy_demo.events import FieldDelta, Message, TurnFinished
from dspy_demo.guests.allowance import Allowance
from dspy_demo.lm.choices import Detection, LMOption
from dspy_demo.settings import Settings
from dspy_demo.web.middleware import BODY_MAX_BYTES, ModelServerMiddleware
from tests.api.conftest import LM, PROGRAMS, STARTED, Api, client_of
from tests.visitors import OWNER, STRANGER

JSON = {"Content-Type": "application/json"}
BODY = {"text": "What is 2 + 2?"}
NOT_JSON = "The body must be a JSON object, not nested too deeply, sent as"
ONE_FORM = "Send exactly one of “text”, “messages” and “inputs”."
FAULTS = [(UpstreamRateLimited(retry_after_s=6.2), 429), (UpstreamAuth(), 502)]
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


def events_of(text):
    """The events of a stream; it must end with the mark."""
    blocks = text.removesuffix("\n\n").split("\n\n")
    assert blocks[-1] == "data: [DONE]"
    return [json.loads(block.removeprefix("data: ")) for block in blocks[:-1]]


async def test_the_three_forms_of_a_question_and_a_program_by_name():
    api = Api()
    chat = [("user", "a"), ("user", "b"), ("assistant", "c"), ("user", "d"), ("user", "e")]
    messages = [{"role": role, "content": text} for role, text in chat]
    for body in (
        {"text": "d\n\ne", "history": messages[:3]},
        {"messages": messages},
        {"inputs": {"question": "d\n\ne"}, "history": messages[:3]},
    ):
        assert (await api.client.post("/predict", json=body)).status_code == 200
        request = api.requests[-1]
        assert request.inputs == {"question": "d\n\ne"}
        assert request.history == (Message("user", "a\n\nb"), Message("assistant", "c"))
    assert (await api.client.post("/predict", json={"program": "report", "text": "bees"})).status_code == 200
    assert api.requests[-1].target.program == "report"
    response = await api.client.post("/predict", json={"text": "x", "program": "nope"})
    assert (response.status_code, response.json()["code"]) == (404, "not_found")


async def test_the_owners_model_answers_with_the_clients_parameters():
    api = Api()
    await api.client.post("/predict", json={"text": "hi"})
    changes = {"temperature": 0, "max_tokens": 10**12, "cache": False}
    await api.client.post("/predict", json={"text": "hi", "session_id": "s.1"} | changes)
    first, second = api.requests
    changed = dataclasses.replace(LM, temperature=0, max_tokens=200_000, cache=False)
    assert (first.target.lm, second.target.lm, second.session_id) == (LM, changed, "s.1")
    for forbidden in ("lm", "model", "api_base", "api_key"):
        response = await api.client.post("/predict", json={"text": "hi", forbidden: "http://169.254.169.254"})
        assert f"The field “{forbidden}” is not valid: extra inputs" in response.json()["message"]


@pytest.mark.parametrize("path", ["/predict", "/predict/stream"])
async def test_a_bad_body_is_refused_with_one_sentence_before_any_model(path):
    api = Api(visitor=STRANGER, input_max_chars=1000)
    for body, status, message in BAD:
        response = await api.client.post(path, content=body, headers=JSON)
        answer = response.json()
        assert response.status_code == status, body
        assert list(answer) == ["status", "code", "message", "retryable", "error_id"]
        assert message in answer["message"] and answer["message"].endswith(".")
    assert not api.requests


async def test_a_long_body_is_refused_by_its_length_or_while_it_is_read():
    api = Api()
    sent = []

    async def endless():
        for number in range(100):
            sent.append(number)
            yield b" " * 1_000_000

    server = client_of(ModelServerMiddleware(api.app, host="127.0.0.1"))
    declared = JSON | {"Content-Length": str(BODY_MAX_BYTES + 1)}
    read = await api.client.post("/predict", content=endless(), headers=JSON)
    unread = await server.post("http://localhost/predict", content=b"{", headers=declared)
    for response in (read, unread):
        assert (response.status_code, response.json()["code"]) == (413, "body_too_large")
    assert len(sent) < 20


async def test_a_form_another_method_or_address_is_refused_in_the_same_shape():
    api = Api()
    for type_ in ("", "text/plain", "application/x-www-form-urlencoded", ";;=,"):
        typed = {"Content-Type": type_}
        response = await api.client.post("/predict", content=b'{"text":"hi"}', headers=typed)
        assert (response.status_code, response.json()["code"]) == (422, "invalid_input")
    for response in (await api.client.get("/predict"), await api.client.get("/nowhere")):
        assert (response.status_code, response.json()["code"]) == (404, "not_found")


@pytest.mark.parametrize(("error", "status"), FAULTS)
async def test_a_fault_has_a_status_and_ends_a_stream(error, status):
    api = Api([STARTED, FieldDelta("answer", "answer", "Wa"), error])
    response = await api.client.post("/predict", json={"text": "hi"})
    body = response.json()
    assert body.pop("error_id")
    about = {"code": error.code, "message": error.public_message, "retryable": error.retryable}
    assert (response.status_code, body) == (status, {"status": "error"} | about)
    assert response.headers.get("retry-after") == ("7" if error.retry_after_s else None)
    stream = await api.client.post("/predict/stream", json={"text": "hi"})
    assert (stream.headers["x-accel-buffering"], stream.headers["cache-control"]) == ("no", "no-cache")
    *_, delta, failed = events_of(stream.text)
    assert (stream.status_code, delta["text"]) == (200, "Wa")
    assert (failed["type"], failed["code"]) == ("error", error.code)


async def test_what_a_model_writes_is_always_json():
    outputs = {"answer": "\ud83d", "big": 2**70, "nan": float("nan"), "nested": [{"a": float("inf")}]}
    api = Api([STARTED, FieldDelta("answer", "answer", "\ud83d"), TurnFinished(outputs)])
    body = (await api.client.post("/predict", json={"text": "hi"})).json()
    assert body["data"] == {"answer": "\ud83d", "big": 2**70, "nan": None, "nested": [{"a": None}]}
    stream = await api.client.post("/predict/stream", json={"text": "hi"})
    assert events_of(stream.text)[1]["text"] == "\ud83d"


async def test_a_guest_is_answered_by_the_guests_model_and_the_owner_by_the_owners():
    settings = Settings(guest_models="demo/engine", guest_programs="report")
    options = (LMOption(LM.model, "Large"), LMOption("demo/engine", "Demo"))
    allowance = Allowance(settings, PROGRAMS, Detection(LM, "", options))
    for visitor, model, program in ((STRANGER, "demo/engine", "report"), (OWNER, LM.model, "qa")):
        api = Api(allowance=allowance, visitor=visitor)
        assert (await api.client.post("/predict", json={"text": "hi"})).status_code == 200
        [request] = api.requests
        assert (request.target.lm.model, request.target.program) == (model, program)


@pytest.mark.parametrize("error", [ModelSetupError("This model needs a key."), KeyError("sk-planted")])
async def test_whether_it_is_ready_with_the_reason_for_the_owner_and_once_in_the_log(error, caplog):
    reply = await Api().client.get("/ready")
    assert reply.status_code == 200
    assert reply.json() == {"ready": True, "reason": "", "tracking": "off", "model_server": "none"}
    api = Api(error=error)
    replies = [await api.client.get("/ready") for _ in range(3)]
    assert {reply.status_code for reply in replies} == {503}
    assert replies[0].json()["reason"].endswith(".") and "sk-planted" not in replies[0].text
    assert [record.message for record in caplog.records] == ["not ready"]
    for visitor in (STRANGER, None):
        reply = await Api(error=error, visitor=visitor).client.get("/ready")
        assert (reply.status_code, reply.json()["reason"]) == (503, NOT_READY)


async def test_not_ready_while_it_shuts_down_and_new_turns_are_refused():
    api = Api()
    await api.service.drain(0)
    ready = await api.client.get("/ready")
    assert ready.status_code == 503
    chat = {"model": "qa", "messages": [{"role": "user", "content": "hi"}]}
    for path, body in (("/predict", BODY), ("/predict/stream", BODY), ("/v1/chat/completions", chat)):
        refused = await api.client.post(path, json=body)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "10")
        assert ready.json()["reason"] in refused.text
    assert (await api.client.get("/health")).status_code == 200


async def test_a_turn_is_one_line_without_its_words_and_the_reply_names_it(caplog):
    caplog.set_level(logging.INFO, logger="dspy_demo")
    given = "0123456789abcdef"
    reply = await Api().client.post("/predict/stream", json=BODY, headers={"X-Turn-Id": given})
    assert reply.headers["x-turn-id"] == given
    (record,) = [r for r in caplog.records if getattr(r, "turn_id", "") == given]
    known = {"outcome": "finished", "backend": "local", "program": "qa", "model": "test/model"}
    assert {name: getattr(record, name) for name in known} == known
    assert record.first_delta_s <= record.elapsed_s and "2 + 2" not in str(vars(record))
    refused = (await Api().client.post("/predict", json={"txt": "secret"})).json()
    (record,) = [r for r in caplog.records if getattr(r, "error_id", "") == refused["error_id"]]
    assert (record.code, record.route) == ("invalid_input", "/predict")
    for wrong in ("short", "A" * 8, "0" * 33, "ab\u00e912345678"):  # no id of a turn
        reply = await Api().client.post("/predict", json=BODY, headers={b"X-Turn-Id": wrong.encode()})
        assert reply.headers["x-turn-id"] != wrong


async def test_the_owner_logs_a_version_and_what_cannot_be_logged_is_one_sentence():
    api, least = Api(), {"name": "demo"}
    whole = least | {"description": "New", "tags": {"team": "search"}, "program": "react"}
    reply = await api.client.post("/versions", json=whole)
    assert (reply.status_code, reply.json()) == (201, {"name": "demo", "version": 3, "uri": "models:/demo/3"})
    assert (await api.client.post("/versions", json=least)).status_code == 201
    assert api.logged == [("demo", "react", "New", {"team": "search"}), ("demo", None, "", {})]
    for made, body, status in (
        (Api(), {}, 422),
        (Api(), least | {"tags": {"a": 1}}, 422),
        (Api(), least | {"lm": "x"}, 422),
        (Api(visitor=STRANGER), least, 403),
        (Api(error=TrackingUnavailable()), least, 503),
    ):
        reply = await made.client.post("/versions", json=body)
        assert (reply.status_code, reply.json()["status"], made.logged) == (status, "error", [])
