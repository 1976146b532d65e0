"""A client that sends slowly or reads nothing holds nothing open: real sockets against a real uvicorn."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator

import httpx
import pytest
import uvicorn
from uvicorn.server import ServerState

from dspy_demo.api import build_api
from dspy_demo.api import connection as connection_module
from dspy_demo.api.connection import bounded_protocol
from dspy_demo.backends.scripted import ScriptedBackend, scripted_answer
from dspy_demo.events import Event, FieldDelta, TurnRequest, TurnStarted
from tests.api.conftest import LM, SilentBackend, make_service
from tests.processes import wait_until

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


@pytest.fixture
def service_for():
    def make(backend, **seconds):
        return make_service(backend, **{"request_timeout_s": 60, "stalled_client_timeout_s": 60} | seconds)

    return make


@pytest.mark.parametrize("bounded", [False, True], ids=["uvicorn as it is", "with our protocol"])
@pytest.mark.parametrize("path", ["/predict/stream", "/v1/chat/completions"])
def test_a_reader_that_stalls_ends_the_turn_and_all_behind_it(serve, service_for, path, bounded):
    backend = EndlessBackend()
    service = service_for(backend, stalled_client_timeout_s=0.4)
    options = {"http": bounded_protocol(service.settings)} if bounded else {}
    server = serve(build_api(service, lambda: LM, keep_alive_s=0.1), **options)
    body = BODY
    if path.startswith("/v1"):
        body = b'{"model":"qa","messages":[{"role":"user","content":"hi"}],"stream":true}'
    connection = server.open_request(path, body)
    assert connection.recv(100).startswith(b"HTTP/1.1 200")
    assert backend.closed.wait(10)
    assert backend.written < 100_000_000  # it had to wait for the reader
    wait_until(lambda: not service.running, 1, "the turn is over")
    if bounded:
        wait_until(lambda: not server.server_state.connections, 1, "the connection is gone, unread as it is")
    connection.close()
    assert httpx.get(server.url + "/health").status_code == 200


def test_a_slow_reader_is_not_a_stalled_one(serve, service_for):
    backend = ScriptedBackend(scripted_answer("", tokens=["x" * 20_000] * 600))
    service = service_for(backend, stalled_client_timeout_s=1)
    server = serve(build_api(service, lambda: LM), http=bounded_protocol(service.settings))
    connection = server.open_request("/predict/stream", BODY)
    received, ended_at = bytearray(), time.monotonic() + 2
    while chunk := connection.recv(1 << 20 if time.monotonic() > ended_at else 1 << 18):
        received += chunk
        if time.monotonic() < ended_at:
            time.sleep(0.05)
        if received.endswith(b"0\r\n\r\n"):
            break
    assert received.count(b"x" * 20_000) == 600
    assert b"data: [DONE]" in received
    connection.close()


@pytest.mark.parametrize(
    ("path", "message"),
    [("/predict", b'"code":"body_too_slow"'), ("/v1/chat/completions", b'"code":"body_too_slow"')],
)
def test_a_slow_upload_is_refused_and_its_connection_closed(serve, service_for, path, message):
    backend = SilentBackend()
    server = serve(build_api(service_for(backend, request_timeout_s=0.3), lambda: LM))
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
        connection.sendall(HEAD.replace(b"/predict", path.encode()) + BODY[:5])
        reply = b""
        while chunk := connection.recv(65_536):
            reply += chunk
    assert reply.startswith(b"HTTP/1.1 408")
    assert message in reply
    assert b"connection: close" in reply.lower()
    assert not backend.begun.is_set()


@pytest.mark.parametrize("sent", [b"", HEAD[:30]], ids=["nothing", "half a head"])
def test_a_connection_without_a_whole_head_is_closed(serve, service_for, sent):
    service = service_for(SilentBackend(), request_timeout_s=0.3)
    server = serve(build_api(service, lambda: LM), http=bounded_protocol(service.settings))
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
        connection.sendall(sent)
        assert connection.recv(100) == b""


def test_a_trickle_after_an_answer_is_closed_too(serve, service_for):
    service = service_for(ScriptedBackend(scripted_answer("x")), request_timeout_s=0.4)
    server = serve(build_api(service, lambda: LM), http=bounded_protocol(service.settings))
    connection = server.open_request("/predict", BODY)
    assert connection.recv(65_536).startswith(b"HTTP/1.1 200")
    connection.settimeout(0.05)
    began_at = time.monotonic()
    with pytest.raises(OSError), connection:
        for byte in HEAD * 100:
            connection.sendall(bytes([byte]))
            try:
                if connection.recv(100) == b"":
                    raise ConnectionResetError
            except TimeoutError:
                pass
    assert time.monotonic() - began_at < 5


def test_a_slow_upload_to_a_route_that_waits_for_ever_is_closed(serve, service_for, monkeypatch):
    monkeypatch.setattr(connection_module, "GRACE_S", 0.1)
    ended = threading.Event()

    async def waits(scope, receive, send):
        while (await receive())["type"] != "http.disconnect":
            pass
        ended.set()

    settings = service_for(SilentBackend(), request_timeout_s=0.3).settings
    server = serve(waits, http=bounded_protocol(settings))
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
        connection.sendall(HEAD + BODY[:5])
        assert connection.recv(100) == b""
    assert ended.wait(2)


def test_a_request_that_takes_its_time_to_be_answered_is_left_alone(serve, service_for):
    service = service_for(ScriptedBackend(scripted_answer("a b c"), pause_s=0.3), request_timeout_s=0.3)
    server = serve(build_api(service, lambda: LM), http=bounded_protocol(service.settings))
    with httpx.Client(base_url=server.url) as client:
        for _ in range(2):
            assert client.post("/predict", json={"text": "hi"}).status_code == 200


class PausedTransport:
    """A transport whose client has read so far that `unread` bytes are left."""

    def __init__(self, ends: socket.socket) -> None:
        self.unread, self.aborted = 1000, False
        self._socket = ends

    def get_write_buffer_size(self) -> int:
        return self.unread

    def get_extra_info(self, name: str) -> object:
        return self._socket if name == "socket" else None

    def abort(self) -> None:
        self.aborted = True


async def test_only_a_line_that_does_not_move_at_all_has_stalled(service_for):
    service = service_for(SilentBackend())
    protocol_class = bounded_protocol(service.settings)
    config = uvicorn.Config(build_api(service, lambda: LM), http=protocol_class, lifespan="off")
    with socket.socket() as ends:
        transport = PausedTransport(ends)
        protocol = protocol_class(config, ServerState(), {})
        protocol.connection_made(transport)
        protocol.pause_writing()
        for transport.unread in (900, 899):
            protocol._end_if_stalled()
            assert not transport.aborted
        protocol._end_if_stalled()
        assert transport.aborted
        protocol.connection_lost(OSError())
