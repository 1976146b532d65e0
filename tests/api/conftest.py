"""Our routes over scripted turns, and real servers to reach them by."""

import asyncio
import socket
import threading
from types import SimpleNamespace

import dspy
import httpx
import uvicorn

from dspy_demo.api.ops import probes_router, versions_router
from dspy_demo.api.routes import build_api
from dspy_demo.chat import ChatService
from dspy_demo.events import FieldDelta, LMChoice, TurnStarted
from dspy_demo.guests.limits import GuestLimits
from dspy_demo.programs.registry import ProgramRegistry
from dspy_demo.programs.spec import InputField, ProgramSpec
from dspy_demo.settings import Settings
from tests.processes import wait_until
from tests.scripted_backend import ScriptedBackend, scripted_answer
from tests.visitors import OWNER


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
STARTED = TurnStarted("local", "m")


class Api:
    """The routes over a script or a backend, what that is asked, and a visitor's client without a socket."""

    name = "noting"

    def __init__(self, script=None, *, visitor=OWNER, error=None, bounds=None, allowance=None, **settings):
        script = script or scripted_answer("It is 4", reasoning="2 plus 2")
        self.backend = script if hasattr(script, "stream") else ScriptedBackend(script)
        self.requests, self.logged, self.visitor, self.error = [], [], visitor, error
        made, programs = Settings(**settings), ProgramRegistry(PROGRAMS)
        limits = GuestLimits(made, bounds=bounds) if bounds else None
        self.service = ChatService(made, programs, self, limits=limits, allowance=allowance)
        routers = probes_router(self.service, self._prepare), versions_router(self._log)
        self.app = build_api(self.service, lambda: LM, *routers)
        self.client = client_of(self.guarded)

    async def guarded(self, scope, receive, send):
        """The app as the visitor meets it behind the middleware that knows who asks."""
        scope.setdefault("state", {})["visitor"] = self.visitor
        await self.app(scope, receive, send)

    def stream(self, request):
        self.requests.append(request)
        return self.backend.stream(request)

    async def aclose(self): ...

    async def _prepare(self):
        if self.error:
            raise self.error

    def _log(self, *version):
        if self.error:
            raise self.error
        self.logged.append(version)
        return SimpleNamespace(name="demo", version=3, uri="models:/demo/3")


def client_of(app, base_url="http://test"):
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=base_url)


class EndlessBackend(ScriptedBackend):
    """Begins to answer and never ends: it is silent, or without a pause writes more than any buffer holds."""

    def __init__(self, pause_s=3600):
        self.pause_s, self.written = pause_s, 0
        self.begun, self.closed = threading.Event(), threading.Event()

    async def stream(self, request):
        try:
            yield STARTED
            yield FieldDelta("answer", "answer", "Wait")
            self.begun.set()
            while True:
                await asyncio.sleep(self.pause_s)
                self.written += 100_000
                yield FieldDelta("answer", "answer", "x" * 100_000)
        finally:
            self.closed.set()


class LiveServer(uvicorn.Server):
    """uvicorn on a free port, in a thread."""

    def __init__(self, app, **config):
        super().__init__(uvicorn.Config(app, port=0, log_level="warning", lifespan="off", **config))
        self._thread = threading.Thread(target=self.run, daemon=True)

    def __enter__(self):
        self._thread.start()
        wait_until(lambda: self.started, 10, "the server has started")
        self.port = self.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    def __exit__(self, *error):
        self.should_exit = True
        self._thread.join(10)
        assert not self._thread.is_alive()

    def open_request(self, path, body):
        """A raw connection with a request sent on it, to be hung up."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        return connection
