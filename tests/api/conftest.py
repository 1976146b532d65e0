"""Services over scripted turns, and real servers to reach them by."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from dataclasses import dataclass, field

import dspy
import httpx
import pytest
import uvicorn

from dspy_demo.api.routes import build_api
from dspy_demo.backends import Backend
from dspy_demo.chat import ChatService
from dspy_demo.events import FieldDelta, LMChoice, LocalTarget, TurnRequest, TurnStarted
from dspy_demo.guests.limits import GuestLimits
from dspy_demo.programs.registry import ProgramRegistry
from dspy_demo.programs.spec import InputField, ProgramSpec
from dspy_demo.settings import Settings
from tests.processes import wait_until
from tests.scripted_backend import ScriptedBackend, scripted_answer


def program(name, field, *outputs, **more):
    """A program that is asked for and never built."""
    inputs = (InputField(field),)
    return ProgramSpec(name, name, "", dspy.Module, chat_field=field, outputs=outputs, inputs=inputs, **more)


PROGRAMS = (
    program("qa", "question", "answer", history_field="history", answer_field="answer"),
    program("report", "topic", "title", "tags"),
    program("custom", "text"),  # only running it tells its outputs
)
LM = LMChoice("test/model", api_base="http://inner.example/v1", temperature=0.5)


@dataclass
class Recorder:
    """A backend that notes the requests it gets and plays `backend`."""

    backend: Backend
    requests: list[TurnRequest] = field(default_factory=list)
    name: str = "recorder"
    service: ChatService | None = None  # the one that it was put into

    def stream(self, request):
        self.requests.append(request)
        return self.backend.stream(request)

    async def aclose(self): ...

    @property
    def lm(self):
        target = self.requests[-1].target
        assert isinstance(target, LocalTarget)
        return target.lm


class SilentBackend:
    """Begins to answer, then says nothing for as long as anybody waits."""

    name = "silent"

    def __init__(self):
        self.begun = threading.Event()
        self.closed = threading.Event()

    async def stream(self, request):
        try:
            yield TurnStarted("local", "silent/model")
            yield FieldDelta("answer", "answer", "Wait")
            self.begun.set()
            await asyncio.Event().wait()
        finally:
            self.closed.set()

    async def aclose(self): ...


def make_service(backend, *, bounds=None, **settings: object):
    made = Settings(**settings)
    limits = GuestLimits(made, bounds=bounds) if bounds else None
    return ChatService(made, ProgramRegistry(PROGRAMS), backend, limits=limits)


def recorded(script=None, **settings: object):
    """A service over a script or a backend, and what that one is asked."""
    script = scripted_answer("It is 4", reasoning="2 plus 2") if script is None else script
    recorder = Recorder(script if hasattr(script, "stream") else ScriptedBackend(script))
    recorder.service = make_service(recorder, **settings)
    return recorder.service, recorder


@pytest.fixture
def make_client():
    """A client of the routes over a script or a backend, without a socket."""

    def make(script=None, lm=LM, **settings: object):
        service, recorder = recorded(script, **settings)
        transport = httpx.ASGITransport(build_api(service, lambda: lm))
        return httpx.AsyncClient(transport=transport, base_url="http://test"), recorder

    return make


def behind_guard(app, visitor):
    """`app` as this visitor meets it behind the middleware that knows who asks."""

    async def guarded(scope, receive, send):
        scope.setdefault("state", {})["visitor"] = visitor
        await app(scope, receive, send)

    return guarded


class LiveServer(uvicorn.Server):
    """uvicorn on a free port, in a thread."""

    def __init__(self, app, **config: object):
        super().__init__(uvicorn.Config(app, port=0, log_level="warning", lifespan="off", **config))
        self._thread = threading.Thread(target=self.run, daemon=True)

    def __enter__(self):
        self._thread.start()
        wait_until(lambda: self.started, 10, "the server has started")
        self.port: int = self.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    def __exit__(self, *error: object):
        self.should_exit = True
        self._thread.join(10)
        assert not self._thread.is_alive()

    def open_request(self, path, body):
        """A raw connection with a request sent on it, to be hung up."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        return connection


@pytest.fixture
def serve():
    with contextlib.ExitStack() as servers:
        yield lambda app, **config: servers.enter_context(LiveServer(app, **config))
