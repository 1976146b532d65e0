"""A client that hangs up stops the turn at once, also while the model is silent."""

from __future__ import annotations

import asyncio
import json
import time

import httpx
import pytest
from starlette.middleware.base import BaseHTTPMiddleware

from dspy_demo.api import build_api
from tests.api.conftest import LM, SilentBackend, make_service
from tests.processes import wait_until
from tests.scripted_backend import ScriptedBackend, scripted_answer

CHAT = b'{"model":"qa","messages":[{"role":"user","content":"hi"}]}'
STREAMED_CHAT = CHAT[:-1] + b',"stream":true}'


@pytest.mark.parametrize("behind_middleware", [False, True], ids=["plain", "behind a middleware"])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/predict", b'{"text":"hi"}'),
        ("/predict/stream", b'{"text":"hi"}'),
        ("/v1/chat/completions", CHAT),
        ("/v1/chat/completions", STREAMED_CHAT),
    ],
    ids=["predict", "predict-stream", "chat", "chat-stream"],
)
def test_hanging_up_closes_the_turn_within_100_ms(serve, path, body, behind_middleware):
    backend = SilentBackend()
    service = make_service(backend)
    api = build_api(service, lambda: LM)
    if behind_middleware:

        async def pass_on(request, call_next):
            return await call_next(request)

        api.add_middleware(BaseHTTPMiddleware, dispatch=pass_on)
    server = serve(api)
    connection = server.open_request(path, body)
    assert backend.begun.wait(5)
    assert not backend.closed.wait(0.1)

    hung_up_at = time.monotonic()
    connection.close()
    assert backend.closed.wait(5)
    assert time.monotonic() - hung_up_at < 0.1
    wait_until(lambda: not service.running, 1, "the turn is over")
    assert httpx.get(server.url + "/health").status_code == 200


def test_silence_is_filled_with_comments_and_does_not_stop_the_turn(serve):
    backend = SilentBackend()
    server = serve(build_api(make_service(backend), lambda: LM, keep_alive_s=0.05))
    comments = 0
    with httpx.stream("POST", server.url + "/predict/stream", json={"text": "hi"}, timeout=5) as response:
        for line in response.iter_lines():
            comments += line == ": keep-alive"
            if comments == 3:
                assert not backend.closed.is_set()
                break
    assert backend.closed.wait(1)


async def test_a_stream_that_the_server_stops_is_cut_without_done(make_client):
    backend = SilentBackend()
    client, recorder = make_client(backend)
    asking = asyncio.create_task(client.post("/predict/stream", json={"text": "hi"}))
    while not backend.begun.is_set():
        await asyncio.sleep(0.01)
    await recorder.service.aclose()
    response = await asking
    assert '"type":"delta"' in response.text
    assert "[DONE]" not in response.text


def test_many_streams_at_once_each_get_their_own_text(serve):
    def script(request):
        return scripted_answer(" ".join([request.inputs["question"]] * 20))

    service = make_service(ScriptedBackend(script, pause_s=0.005))
    server = serve(build_api(service, lambda: LM))

    async def ask(client: httpx.AsyncClient, number: int) -> bool:
        response = await client.post(server.url + "/predict/stream", json={"text": f"q{number}"})
        events = [json.loads(line[6:]) for line in response.text.split("\n\n")[:-2]]
        text = "".join(event["text"] for event in events if event["type"] == "delta")
        return text == f"q{number}" * 20 and events[-1]["type"] == "final"

    async def ask_all() -> list[bool]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(limits=limits, timeout=30) as client:
            return await asyncio.gather(*(ask(client, number) for number in range(200)))

    assert all(asyncio.run(ask_all()))
    assert not service.running
