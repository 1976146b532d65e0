"""``/ready`` and ``/metrics`` over HTTP, and the id of a turn in replies and in the log."""

from __future__ import annotations

import json
import logging

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families

from dspy_demo.api import build_router, with_docs
from dspy_demo.api.probes import Readiness, probes_router
from dspy_demo.errors import ModelSetupError, UpstreamUnavailable
from dspy_demo.events import TurnStarted
from dspy_demo.metrics import Metrics
from tests.api.conftest import LM, make_service
from tests.scripted_backend import ScriptedBackend, scripted_answer

BODY = {"text": "What is 2 + 2?"}
CHAT = {"model": "qa", "messages": [{"role": "user", "content": "What is 2 + 2?"}]}
GIVEN = "0123456789abcdef"


class Probed:
    """An app with the probes, over scripted turns."""

    def __init__(self, script=None, *, prepare=None, model_server="none", **settings) -> None:
        script = scripted_answer("4") if script is None else script

        async def prepared() -> None:
            if prepare is not None:
                raise prepare

        async def asked() -> str:
            return model_server

        self.service = make_service(ScriptedBackend(script), **settings)
        metrics = self.service.observer = Metrics()
        router = build_router(self.service, lambda: LM)
        router.include_router(probes_router(metrics, Readiness(self.service, prepared, asked)))
        app = FastAPI(routes=with_docs(router), docs_url=None, redoc_url=None, openapi_url=None)
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")

    async def samples(self) -> dict[tuple[str, str], float]:
        reply = await self.client.get("/metrics")
        assert reply.status_code == 200
        assert reply.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        return {
            (sample.name, sample.labels.get("outcome", "")): sample.value
            for family in text_string_to_metric_families(reply.text)
            for sample in family.samples
        }


async def test_ready_when_a_turn_can_be_answered() -> None:
    reply = await Probed(model_server="failed").client.get("/ready")
    assert reply.status_code == 200
    assert reply.json() == {"ready": True, "reason": "", "tracking": "off", "model_server": "failed"}


@pytest.mark.parametrize("error", [ModelSetupError("This model needs a key."), KeyError("sk-planted")])
async def test_not_ready_says_why_in_a_sentence(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    probed = Probed(prepare=error)
    replies = [await probed.client.get("/ready") for _ in range(3)]
    assert {reply.status_code for reply in replies} == {503}
    assert replies[0].json()["ready"] is False
    assert replies[0].json()["reason"].endswith(".")
    assert "sk-planted" not in replies[0].text
    assert [record.message for record in caplog.records] == ["not ready"]


async def test_not_ready_while_it_shuts_down_and_new_turns_are_refused() -> None:
    probed = Probed()
    await probed.service.drain(0)
    ready = await probed.client.get("/ready")
    assert ready.status_code == 503
    for path, body in (("/predict", BODY), ("/predict/stream", BODY), ("/v1/chat/completions", CHAT)):
        refused = await probed.client.post(path, json=body)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "10")
        assert ready.json()["reason"] in refused.text
    assert (await probed.client.get("/health")).status_code == 200


async def test_the_figures_are_those_of_the_turns() -> None:
    probed = Probed()
    before = await probed.samples()
    assert before["dspy_demo_active_turns", ""] == 0
    await probed.client.post("/predict", json=BODY)
    await probed.client.post("/predict/stream", json=BODY)
    await probed.client.post("/v1/chat/completions", json=CHAT)
    await probed.client.post("/predict", json={"text": " "})
    after = await probed.samples()
    assert after["dspy_demo_turns_total", "finished"] == 3
    assert after["dspy_demo_turns_total", "refused"] == 1
    assert after["dspy_demo_turn_seconds_count", "finished"] == 3
    assert after["dspy_demo_first_token_seconds_count", ""] == 3


async def test_both_are_documented() -> None:
    probed = Probed()
    schema = (await probed.client.get("/openapi.json")).json()
    assert {"200", "503"} <= set(schema["paths"]["/ready"]["get"]["responses"])
    assert list(schema["paths"]["/metrics"]["get"]["responses"]["200"]["content"]) == ["text/plain"]
    page = (await probed.client.get("/docs")).text
    assert "/ready" in page and "/metrics" in page


# --- one id ---


def logged(caplog: pytest.LogCaptureFixture, turn_id: str) -> list[logging.LogRecord]:
    return [record for record in caplog.records if getattr(record, "turn_id", "") == turn_id]


@pytest.fixture
def broken() -> Probed:
    return Probed(lambda _: [TurnStarted("local", "m"), UpstreamUnavailable()])


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/predict", BODY),
        ("/predict/stream", BODY),
        ("/v1/chat/completions", CHAT),
        ("/v1/chat/completions", CHAT | {"stream": True}),
    ],
)
@pytest.mark.parametrize("given", ["", GIVEN])
async def test_an_error_is_found_in_the_log_by_its_id(
    broken: Probed, caplog: pytest.LogCaptureFixture, path: str, body: dict, given: str
) -> None:
    reply = await broken.client.post(path, json=body, headers={"X-Turn-Id": given} if given else {})
    lines = reply.text.replace("data: ", "").splitlines()
    contents = [json.loads(line) for line in lines if "error_id" in line]
    error = contents[0].get("error", contents[0])
    (record,) = logged(caplog, error["error_id"])
    assert record.code == error["code"] == "upstream_unavailable"
    assert record.error_id == error["error_id"]
    assert not given or error["error_id"] == given
    assert len(error["error_id"]) in {8, 16}


async def test_a_refusal_has_its_line_too(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    probed = Probed()
    empty = (await probed.client.post("/predict", json={"text": " "})).json()
    (record,) = logged(caplog, empty["error_id"])
    assert (record.levelname, record.message, record.outcome) == ("INFO", "turn refused", "refused")
    no_body = (await probed.client.post("/predict", json={"txt": "secret"})).json()
    (record,) = [r for r in caplog.records if getattr(r, "error_id", "") == no_body["error_id"]]
    assert (record.code, record.route) == ("invalid_input", "/predict")


@pytest.mark.parametrize(("path", "body"), [("/predict", BODY), ("/predict/stream", BODY)])
async def test_an_answer_names_its_turn(path: str, body: dict) -> None:
    client = Probed().client
    assert (await client.post(path, json=body, headers={"X-Turn-Id": GIVEN})).headers["x-turn-id"] == GIVEN
    assert len((await client.post(path, json=body)).headers["x-turn-id"]) == 8


@pytest.mark.parametrize("given", ["short", "x" * 16, "A" * 8, "0" * 33, "ab\u00e912345678"])
async def test_an_id_that_is_none_is_not_taken(given: str) -> None:
    reply = await Probed().client.post("/predict", json=BODY, headers={b"X-Turn-Id": given.encode()})
    assert reply.headers["x-turn-id"] != given


async def test_every_turn_is_one_line_without_its_words(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="dspy_demo")
    reply = await Probed().client.post("/predict", json=BODY)
    (record,) = logged(caplog, reply.headers["x-turn-id"])
    assert record.message == "turn finished"
    assert (record.outcome, record.backend, record.program, record.model) == (
        "finished",
        "local",
        "qa",
        "test/model",
    )
    assert record.first_delta_s <= record.elapsed_s
    assert (record.prompt_tokens, record.completion_tokens) == (0, 0)
    assert "2 + 2" not in str(vars(record))
