"""A client that hangs up stops the turn at once, also while the model is silent; one that stalls, too."""

import asyncio
import socket
import time

import httpx
import openai
import pytest

from dspy_demo.api import turns
from dspy_demo.guests.limits import Bounds
from dspy_demo.web import uvicorn_bridge
from dspy_demo.web.uvicorn_bridge import bounded_protocol
from tests.api.conftest import Api, EndlessBackend, LiveServer
from tests.processes import wait_until
from tests.scripted_backend import ScriptedBackend, scripted_answer
from tests.services import until

CHAT = b'{"model":"qa","messages":[{"role":"user","content":"hi"}],"stream":true}'
BODY = b'{"text":"hi"}'


@pytest.mark.parametrize(("path", "body"), [("/predict", BODY), ("/v1/chat/completions", CHAT)])
def test_hanging_up_closes_the_turn_within_100_ms(path, body):
    api = Api(EndlessBackend())
    with LiveServer(api.app) as server:
        connection = server.open_request(path, body)
        assert api.backend.begun.wait(5)
        assert not api.backend.closed.wait(0.1)
        hung_up_at = time.monotonic()
        connection.close()
        assert api.backend.closed.wait(5)
        assert time.monotonic() - hung_up_at < 0.1
        wait_until(lambda: not api.service.running, 1, "the turn is over")
        assert httpx.get(server.url + "/health").status_code == 200


def test_silence_is_filled_with_comments_and_does_not_stop_the_turn(monkeypatch):
    monkeypatch.setattr(turns, "KEEP_ALIVE_S", 0.05)
    api = Api(EndlessBackend())
    with LiveServer(api.app) as server:
        with httpx.stream("POST", server.url + "/predict/stream", json={"text": "hi"}, timeout=5) as response:
            lines = response.iter_lines()
            for _ in range(3):
                while next(lines) != ": keep-alive":
                    pass
            assert not api.backend.closed.is_set()
        assert api.backend.closed.wait(1)


async def test_a_stream_that_the_server_stops_is_cut_without_done():
    api = Api(EndlessBackend())
    asking = asyncio.create_task(api.client.post("/predict/stream", json={"text": "hi"}))
    await until(api.backend.begun.is_set)
    await api.service.aclose()
    response = await asking
    assert ('"type":"delta"' in response.text, "[DONE]" in response.text) == (True, False)


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="the kernel has no such limit")
def test_a_reader_that_stalls_ends_the_turn_and_all_behind_it(monkeypatch):
    monkeypatch.setattr(uvicorn_bridge, "STALLED_S", 0.5)
    api = Api(EndlessBackend(pause_s=0))
    server = LiveServer(api.app, http=bounded_protocol(8))
    with server, server.open_request("/predict/stream", BODY) as connection:
        assert connection.recv(100).startswith(b"HTTP/1.1 200")
        assert api.backend.closed.wait(20)
        assert api.backend.written < 100_000_000  # it had to wait for the reader
        wait_until(lambda: not api.service.running, 1, "the turn is over")
        wait_until(lambda: not server.server_state.connections, 1, "the connection is gone, unread as it is")


def test_a_connection_without_a_whole_head_is_closed_and_one_with_it_is_not(monkeypatch):
    monkeypatch.setattr(uvicorn_bridge, "FIRST_HEAD_S", 0.3)
    backend = ScriptedBackend(scripted_answer("a b c"), pause_s=0.2)
    with LiveServer(Api(backend).app, http=bounded_protocol(8)) as server:
        for sent in (b"", b"POST /predict HT", b"POST /predict HTTP/1.1\r\nHost: x\r\n"):
            with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
                connection.sendall(sent)
                assert connection.recv(100) == b""
        with server.open_request("/predict", BODY) as connection:
            assert connection.recv(65_536).startswith(b"HTTP/1.1 200")


def test_openais_client_just_waits_and_hanging_up_leaves_the_line(monkeypatch):
    monkeypatch.setattr(turns, "KEEP_ALIVE_S", 0.05)
    silent = EndlessBackend()
    api = Api(silent, bounds=Bounds(), guests_concurrent_turns=1)
    server, service = LiveServer(api.app), api.service
    with server, server.open_request("/predict/stream", BODY) as holder:
        assert silent.begun.wait(5)
        api.backend = ScriptedBackend(scripted_answer("four"))
        waiting = server.open_request("/predict", BODY)
        wait_until(lambda: service.waiting, 5, "the second turn waits")
        waiting.close()
        wait_until(lambda: not service.waiting, 1, "it left the line")
        assert (service.limits.waiting, len(service.running)) == ([], 1)
        with openai.OpenAI(base_url=server.url + "/v1", api_key="unused", max_retries=0) as sdk:
            messages = [{"role": "user", "content": "hi"}]
            stream = sdk.chat.completions.create(model="qa", messages=messages, stream=True)
            wait_until(lambda: service.waiting, 30, "it waits")
            holder.close()
            assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "four"
