"""What a guest's program hears of the limits: a status before anything runs, or its place in line."""

from __future__ import annotations

from dataclasses import replace

import httpx
import openai
import pytest

from dspy_demo.api import build_api, turns
from dspy_demo.chat import ChatService
from dspy_demo.guests.allowance import Allowance
from dspy_demo.guests.limits import Bounds
from dspy_demo.lm.choices import Detection, LMOption
from dspy_demo.programs.registry import ProgramRegistry
from dspy_demo.settings import Settings
from tests.api.conftest import LM, PROGRAMS, Recorder, SilentBackend, behind_guard, recorded
from tests.processes import wait_until
from tests.scripted_backend import ScriptedBackend, scripted_answer
from tests.visitors import OWNER, STRANGER

CHAT = {"model": "qa", "messages": [{"role": "user", "content": "hi"}]}


@pytest.mark.parametrize(
    ("path", "body"), [("/predict", {"text": "hi"}), ("/v1/chat/completions", CHAT | {"stream": True})]
)
async def test_a_refusal_is_a_429_that_says_when_to_come_back(make_client, path, body):
    client, recorder = make_client(bounds=Bounds(total_per_minute=1))
    assert (await client.post(path, json=body)).status_code == 200
    refused = await client.post(path, json=body)
    assert (refused.status_code, 1 <= int(refused.headers["Retry-After"]) <= 60) == (429, True)
    content = refused.json().get("error") or refused.json()
    assert content["code"] == "rate_limited"
    assert len(recorder.requests) == 1


@pytest.mark.parametrize(("owners", "sent", "used"), [(None, 5000, 5000), (100, 5000, 100), (100, 50, 50)])
async def test_a_bound_of_the_owners_can_only_be_lowered(make_client, owners, sent, used):
    client, recorder = make_client(lm=replace(LM, max_tokens=owners))
    assert (await client.post("/predict", json={"text": "hi", "max_tokens": sent})).status_code == 200
    assert recorder.lm.max_tokens == used


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


def test_openais_client_just_waits_and_hanging_up_leaves_the_line(serve, monkeypatch):
    monkeypatch.setattr(turns, "KEEP_ALIVE_S", 0.05)
    silent = SilentBackend()
    service, recorder = recorded(silent, bounds=Bounds(), guests_concurrent_turns=1)
    server = serve(build_api(service, lambda: LM))
    with server.open_request("/predict/stream", b'{"text":"hi"}') as holder:
        assert silent.begun.wait(5)
        recorder.backend = ScriptedBackend(scripted_answer("four"))
        waiting = server.open_request("/predict", b'{"text":"hi"}')
        wait_until(lambda: service.waiting, 5, "the second turn waits")
        waiting.close()
        wait_until(lambda: not service.waiting, 1, "it left the line")
        assert (service.limits.waiting, len(service.running)) == ([], 1)
        with openai.OpenAI(base_url=server.url + "/v1", api_key="unused", max_retries=0) as sdk:
            stream = sdk.chat.completions.create(**CHAT, stream=True)
            wait_until(lambda: service.waiting, 30, "it waits")
            holder.close()
            assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "four"
