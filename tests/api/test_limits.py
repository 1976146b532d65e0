"""What a guest's program hears of the limits: a status before anything runs, or its place in line."""

from __future__ import annotations

import json
import threading
from dataclasses import replace

import httpx
import openai
import pytest

from dspy_demo.api import build_api
from dspy_demo.guests.limits import Bounds
from tests.api.conftest import LM, SilentBackend, make_service
from tests.processes import wait_until
from tests.scripted_backend import ScriptedBackend, scripted_answer

CHAT = {"model": "qa", "messages": [{"role": "user", "content": "hi"}]}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/predict", {"text": "hi"}),
        ("/predict/stream", {"text": "hi"}),
        ("/v1/chat/completions", CHAT),
        ("/v1/chat/completions", CHAT | {"stream": True}),
    ],
)
async def test_a_refusal_is_a_429_that_says_when_to_come_back(make_client, path, body):
    client, recorder = make_client(bounds=Bounds(total_per_minute=1))
    assert (await client.post(path, json=body)).status_code == 200
    refused = await client.post(path, json=body)
    assert refused.status_code == 429
    assert 1 <= int(refused.headers["Retry-After"]) <= 60
    content = refused.json().get("error") or refused.json()
    assert content["code"] == "rate_limited"
    assert len(recorder.requests) == 1


async def test_a_spent_budget_is_not_worth_another_try(make_client):
    client, recorder = make_client(bounds=Bounds(), guests_daily_tokens=0)
    refused = await client.post("/v1/chat/completions", json=CHAT)
    assert (refused.status_code, refused.headers["x-should-retry"]) == (429, "false")
    assert refused.json()["error"]["code"] == "budget_spent"
    assert not recorder.requests


@pytest.mark.parametrize(("owners", "sent", "used"), [(None, 5000, 5000), (100, 5000, 100), (100, 50, 50)])
async def test_a_bound_of_the_owners_can_only_be_lowered(make_client, owners, sent, used):
    client, recorder = make_client(lm=replace(LM, max_tokens=owners))
    assert (await client.post("/predict", json={"text": "hi", "max_tokens": sent})).status_code == 200
    assert recorder.lm.max_tokens == used


@pytest.fixture
def one_place(serve):
    """A server for guests with one place, which is taken; and how to leave it."""
    silent = SilentBackend()
    answering = ScriptedBackend(scripted_answer("four"))

    class First:
        """Silent for the first turn, then it answers."""

        name = "first"

        def stream(self, request):
            return (answering if silent.begun.is_set() else silent).stream(request)

        async def aclose(self): ...

    service = make_service(First(), bounds=Bounds(), guests_concurrent_turns=1)
    server = serve(build_api(service, lambda: LM, keep_alive_s=0.05))
    holder = server.open_request("/predict/stream", b'{"text":"hi"}')
    assert silent.begun.wait(5)
    yield server, service, holder.close
    holder.close()


def test_the_place_in_line_comes_before_the_start(one_place):
    server, _, leave = one_place
    kinds = []
    with httpx.stream("POST", server.url + "/predict/stream", json={"text": "hi"}, timeout=5) as response:
        for line in response.iter_lines():
            if line.startswith("data: {"):
                event = json.loads(line[6:])
                kinds.append((event["type"], event.get("key"), event.get("state")))
            elif line.startswith(":"):
                leave()  # a comment came: waiting is kept alive as silence is
    assert kinds[0] == ("status", "queue", "pending")
    assert ("status", "queue", "done") in kinds
    after = kinds[kinds.index(("status", "queue", "done")) + 1 :]
    assert (after[0][0], after[-1][0]) == ("started", "final")


def test_openais_client_just_waits(one_place):
    server, service, leave = one_place
    with openai.OpenAI(base_url=server.url + "/v1", api_key="unused", max_retries=0) as sdk:

        def leave_when_it_waits():
            wait_until(lambda: service.waiting, 30, "it waits")  # the SDK loads its parts at the first call
            leave()

        leaving = threading.Thread(target=leave_when_it_waits)
        leaving.start()
        chunks = list(sdk.chat.completions.create(**CHAT, stream=True))
        leaving.join()
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "four"


@pytest.mark.parametrize("path", ["/predict", "/predict/stream"])
def test_hanging_up_while_waiting_leaves_the_line(one_place, path):
    server, service, _ = one_place
    waiting = server.open_request(path, b'{"text":"hi"}')
    wait_until(lambda: service.waiting, 5, "the second turn waits")
    waiting.close()
    wait_until(lambda: not service.waiting, 1, "it left the line")
    assert not service.limits.waiting
    assert len(service.running) == 1
