"""``/ready``, ``/metrics``, ``POST /versions``, and the id of a turn in replies and in the log."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from dspy_demo.api.ops import NOT_READY, probes_router, versions_router
from dspy_demo.api.routes import build_api
from dspy_demo.errors import ModelSetupError, TrackingUnavailable
from tests.api.conftest import LM, behind_guard, make_service
from tests.scripted_backend import ScriptedBackend, scripted_answer
from tests.visitors import OWNER, STRANGER

BODY = {"text": "What is 2 + 2?"}
CHAT = {"model": "qa", "messages": [{"role": "user", "content": "What is 2 + 2?"}]}
WAYS = [("/predict", BODY), ("/predict/stream", BODY), ("/v1/chat/completions", CHAT)]
GIVEN = "0123456789abcdef"
Log = pytest.LogCaptureFixture


@dataclass
class Ops:
    """An app over scripted turns, and what its parts are asked."""

    script: Any = field(default_factory=lambda: scripted_answer("4"))
    error: Exception | None = None
    visitor: Any = OWNER
    logged: list[tuple[Any, ...]] = field(default_factory=list)

    def __post_init__(self):
        self.service = make_service(ScriptedBackend(self.script))
        probes = probes_router(self.service, self._prepare)
        app = build_api(self.service, lambda: LM, probes, versions_router(self._log))
        transport = httpx.ASGITransport(behind_guard(app, self.visitor))
        self.client = httpx.AsyncClient(transport=transport, base_url="http://test")

    async def _prepare(self):
        if self.error is not None:
            raise self.error

    def _log(self, name, program, description, tags):
        if self.error is not None:
            raise self.error
        self.logged.append((name, program, description, tags))
        return SimpleNamespace(name=name, version=3, uri="models:/demo/3")


@pytest.mark.parametrize("error", [ModelSetupError("This model needs a key."), KeyError("sk-planted")])
async def test_whether_it_is_ready_with_the_reason_for_the_owner_and_once_in_the_log(error, caplog):
    reply = await Ops().client.get("/ready")
    assert reply.status_code == 200
    assert reply.json() == {"ready": True, "reason": "", "tracking": "off", "model_server": "none"}
    ops = Ops(error=error)
    replies = [await ops.client.get("/ready") for _ in range(3)]
    assert {reply.status_code for reply in replies} == {503}
    assert replies[0].json()["reason"].endswith(".") and "sk-planted" not in replies[0].text
    assert [record.message for record in caplog.records] == ["not ready"]
    for visitor in (STRANGER, None):
        reply = await Ops(error=error, visitor=visitor).client.get("/ready")
        assert (reply.status_code, reply.json()["reason"]) == (503, NOT_READY)


async def test_not_ready_while_it_shuts_down_and_new_turns_are_refused():
    ops = Ops()
    await ops.service.drain(0)
    ready = await ops.client.get("/ready")
    assert ready.status_code == 503
    for path, body in WAYS:
        refused = await ops.client.post(path, json=body)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "10")
        assert ready.json()["reason"] in refused.text
    assert (await ops.client.get("/health")).status_code == 200


async def test_a_turn_is_one_line_without_its_words_and_the_reply_names_it(caplog):
    caplog.set_level(logging.INFO, logger="dspy_demo")
    reply = await Ops().client.post("/predict/stream", json=BODY, headers={"X-Turn-Id": GIVEN})
    assert reply.headers["x-turn-id"] == GIVEN
    (record,) = [r for r in caplog.records if getattr(r, "turn_id", "") == GIVEN]
    known = {"outcome": "finished", "backend": "local", "program": "qa", "model": "test/model"}
    assert {name: getattr(record, name) for name in known} == known
    assert record.first_delta_s <= record.elapsed_s and "2 + 2" not in str(vars(record))
    refused = (await Ops().client.post("/predict", json={"txt": "secret"})).json()
    (record,) = [r for r in caplog.records if getattr(r, "error_id", "") == refused["error_id"]]
    assert (record.code, record.route) == ("invalid_input", "/predict")
    for given in ("short", "A" * 8, "0" * 33, "ab\u00e912345678"):  # no id of a turn
        reply = await Ops().client.post("/predict", json=BODY, headers={b"X-Turn-Id": given.encode()})
        assert reply.headers["x-turn-id"] != given


async def test_the_owner_logs_a_version_and_what_cannot_be_logged_is_one_sentence():
    ops, least = Ops(), {"name": "demo"}
    whole = least | {"description": "New", "tags": {"team": "search"}, "program": "react"}
    reply = await ops.client.post("/versions", json=whole)
    assert (reply.status_code, reply.json()) == (201, {"name": "demo", "version": 3, "uri": "models:/demo/3"})
    assert (await ops.client.post("/versions", json=least)).status_code == 201
    assert ops.logged == [("demo", "react", "New", {"team": "search"}), ("demo", None, "", {})]
    for made, body, status in (
        (Ops(), {}, 422),
        (Ops(), least | {"tags": {"a": 1}}, 422),
        (Ops(), least | {"lm": "x"}, 422),
        (Ops(visitor=STRANGER), least, 403),
        (Ops(error=TrackingUnavailable()), least, 503),
    ):
        reply = await made.client.post("/versions", json=body)
        assert (reply.status_code, reply.json()["status"], made.logged) == (status, "error", [])
