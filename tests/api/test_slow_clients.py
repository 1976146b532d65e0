"""A client that sends slowly or reads nothing holds nothing open: real sockets against a real uvicorn."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator

import httpx
import pytest

from dspy_demo.api import build_api
from dspy_demo.events import Event, FieldDelta, TurnRequest, TurnStarted
from dspy_demo.web import uvicorn_bridge
from dspy_demo.web.uvicorn_bridge import bounded_protocol
from tests.api.conftest import LM, SilentBackend, make_service
from tests.processes import wait_until
from tests.scripted_backend import ScriptedBackend, scripted_answer

HEAD = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 13\r\n\r\n"
BODY = b'{"text":"hi"}'


class EndlessBackend:
    """Writes more than any buffer between it and a reader holds, for ever."""

    name = "endless"

    def __init__(self) -> None:
        self.closed = threading.Event()
        self.written = 0

    async def stream(self, request: TurnRequest) -> AsyncIterator[Event]:
        try:
            yield TurnStarted("local", "endless")
            while True:
                await asyncio.sleep(0)
                self.written += 100_000
                yield FieldDelta("answer", "answer", "x" * 100_000)
        finally:
            self.closed.set()

    async def aclose(self) -> None: ...


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="the kernel has no such limit")
def test_a_reader_that_stalls_ends_the_turn_and_all_behind_it(serve, monkeypatch):
    monkeypatch.setattr(uvicorn_bridge, "STALLED_S", 0.5)
    backend = EndlessBackend()
    service = make_service(backend)
    server = serve(
        build_api(service, lambda: LM, keep_alive_s=0.1),
        http=bounded_protocol(service.settings.max_connections),
    )
    connection = server.open_request("/predict/stream", BODY)
    assert connection.recv(100).startswith(b"HTTP/1.1 200")
    assert backend.closed.wait(20)
    assert backend.written < 100_000_000  # it had to wait for the reader
    wait_until(lambda: not service.running, 1, "the turn is over")
    wait_until(lambda: not server.server_state.connections, 1, "the connection is gone, unread as it is")
    connection.close()
    assert httpx.get(server.url + "/health").status_code == 200


@pytest.mark.parametrize(
    "sent", [b"", HEAD[:30], HEAD[:-2]], ids=["nothing", "half a head", "all but its end"]
)
def test_a_connection_without_a_whole_head_is_closed(serve, monkeypatch, sent):
    monkeypatch.setattr(uvicorn_bridge, "FIRST_HEAD_S", 0.3)
    service = make_service(SilentBackend())
    server = serve(build_api(service, lambda: LM), http=bounded_protocol(service.settings.max_connections))
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
        connection.sendall(sent)
        assert connection.recv(100) == b""


def test_where_all_places_are_taken_the_one_that_asks_nothing_goes(serve):
    service = make_service(ScriptedBackend(scripted_answer("x")), max_connections=8)
    server = serve(build_api(service, lambda: LM), http=bounded_protocol(service.settings.max_connections))
    silent = [socket.create_connection(("127.0.0.1", server.port), timeout=5) for _ in range(10)]
    assert [connection.recv(1) for connection in silent[:2]] == [b"", b""]
    assert httpx.get(server.url + "/health").status_code == 200
    with httpx.Client(base_url=server.url) as client:
        busy = [httpx.Client(base_url=server.url) for _ in range(7)]
        for one in (client, *busy):
            assert one.get("/health").status_code == 200
        with pytest.raises(httpx.TransportError):  # eight are known and kept
            httpx.get(server.url + "/health")
        assert client.get("/health").status_code == 200
        for one in busy:
            one.close()
    for connection in silent:
        connection.close()
