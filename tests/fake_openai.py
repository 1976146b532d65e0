"""A real local server that speaks OpenAI's chat API, and every way in which such a server can fail."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Self, TypeVar

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from tests.fake_upstream import FAULTS, ODDITIES, Completion, Reply, to_json, tool_reply

__all__ = ["FAULTS", "ODDITIES", "FakeOpenAI", "Reply", "Request", "Stream", "tool_reply"]

T = TypeVar("T")
Responder = Callable[[dict[str, Any]], Reply | None]
ERROR_CODES = {401: "invalid_api_key", 404: "model_not_found", 429: "rate_limit_exceeded"}
HTML_PAGE = b"<!doctype html><html><body><h1>Sign in to the hotel's network</h1></body></html>"
OLLAMA_MODELS = {"fake-chat:latest": "completion", "fake-embed:latest": "embedding"}


@dataclass
class Request:
    """One request as it came. Header names are in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        return json.loads(self.body) if self.body else {}

    @property
    def api_key(self) -> str:
        """As OpenAI, Anthropic or Gemini take it."""
        bearer = self.headers.get("authorization", "").removeprefix("Bearer ")
        return bearer or self.headers.get("x-api-key", "") or self.headers.get("x-goog-api-key", "")


@dataclass
class Stream:
    """What happened to one chat completion; `closed_at` is by `time.monotonic()`, None while it is open."""

    request: Request
    reply: Reply
    tokens_sent: int = 0
    closed_at: float | None = None
    client_left: bool = False

    def end(self, *, client_left: bool = False) -> None:
        if self.closed_at is None:
            self.closed_at, self.client_left = time.monotonic(), client_left


class FakeOpenAI:
    """The server; `url` is the base URL for clients. Every method may be called from any thread.

    What nobody scripted is an answer to the prompt, in the format that DSPy's adapter asks for.
    """

    def __init__(self) -> None:
        self.port = 0
        self.models = ["fake"]
        self.get_reply: Reply | None = None  # a fault for GET requests (detection probes)
        self.requests: list[Request] = []
        self.streams: list[Stream] = []
        self._replies: deque[Reply] = deque()
        self._responder: Responder | None = None
        self._started = threading.Event()
        self._state = ServerState()

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._thread.start()
        assert self._started.wait(10), "the fake server did not start"
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        assert not self._thread.is_alive(), "the fake server did not stop"

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        config = uvicorn.Config(
            self._app, interface="asgi3", log_config=None, log_level="critical", lifespan="off"
        )
        config.load()
        server = await self._loop.create_server(
            lambda: H11Protocol(config, self._state, {}), "127.0.0.1", 0, backlog=1024
        )
        self.port = server.sockets[0].getsockname()[1]
        self._started.set()
        await self._stop.wait()
        server.close()
        self._abort_all()

    def _abort_all(self) -> None:
        for connection in self.connections:
            connection.transport.abort()

    @property
    def connections(self) -> list[Any]:
        return list(self._state.connections)

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.origin}/v1"

    def reply(self, reply: Reply | None = None, /, *, times: int = 1, **fields: Any) -> None:
        """Queue an answer: a `Reply`, or its fields, or both."""
        self._replies.extend([replace(reply or Reply(), **fields)] * times)

    def respond_with(self, responder: Responder | None) -> None:
        """Ask `responder` for each reply, before the queue; None from it goes on to the queue."""
        self._responder = responder

    def reset(self) -> None:
        """Forget everything, and reset every connection."""
        self._responder = self.get_reply = None
        for kept in (self._replies, self.requests, self.streams):
            kept.clear()
        self._loop.call_soon_threadsafe(self._abort_all)

    @property
    def active_streams(self) -> int:
        return sum(stream.closed_at is None for stream in list(self.streams))

    def wait_for(self, predicate: Callable[[], T], timeout: float = 10.0) -> T:
        """Block until `predicate` is true, and return what it gave."""
        deadline = time.monotonic() + timeout
        while True:
            with suppress(IndexError):  # `fake.streams[-1]` before there is one
                if result := predicate():
                    return result
            if time.monotonic() > deadline:
                raise TimeoutError(f"not true in {timeout} s; {len(self.requests)} requests; {self.streams}")
            time.sleep(0.002)

    async def await_for(self, predicate: Callable[[], T], timeout: float = 10.0) -> T:
        return await asyncio.to_thread(self.wait_for, predicate, timeout)

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            part = await receive()
            body, more = body + part.get("body", b""), part.get("more_body", False)
        headers = {name.decode(): value.decode("latin-1") for name, value in scope["headers"]}
        request = Request(scope["method"], scope["path"], headers, body)
        self.requests.append(request)
        exchange = Exchange(self, request, send)
        answering, leaving = asyncio.create_task(exchange.answer()), asyncio.create_task(receive())
        try:
            await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if answering.done():
                answering.result()
        finally:
            answering.cancel()
            leaving.cancel()
            if exchange.stream is not None:
                exchange.stream.end(client_left=True)

    def next_reply(self, request: Request) -> Reply:
        if self._responder and (reply := self._responder(request.json)):
            return reply
        return self._replies.popleft() if self._replies else Reply()


class Exchange:
    """One request and its answer."""

    def __init__(self, fake: FakeOpenAI, request: Request, send: Any) -> None:
        self._fake, self._request, self._asgi_send = fake, request, send
        self.stream: Stream | None = None

    async def answer(self) -> None:
        request, path = self._request, self._request.path.removeprefix("/v1").rstrip("/")
        if request.method == "GET" and self._fake.get_reply:
            await self._fail_at_once(self._fake.get_reply)
        elif (request.method, path) == ("POST", "/chat/completions"):
            await self._complete()
        elif (value := self._page(path)) is not None:
            await self._send(200, to_json(value))
        else:
            await self._send_error(Reply(status=404, error_message=f"no route {request.path}"))

    def _page(self, path: str) -> Any:
        """OpenAI's model list, and what Ollama is recognised by."""
        models = [{"name": name, "capabilities": [can]} for name, can in OLLAMA_MODELS.items()]
        asked = self._request.json.get("model", "")
        pages = {
            "GET /models": {"object": "list", "data": [{"id": name} for name in self._fake.models]},
            "GET /api/tags": {"models": models},
            "GET /api/version": {"version": "0.0.0-fake"},
            "POST /api/show": {"capabilities": [OLLAMA_MODELS.get(asked, "")]},
            "GET ": "Ollama is running",
        }
        return pages.get(f"{self._request.method} {path}")

    async def _complete(self) -> None:
        reply = self._fake.next_reply(self._request)
        stream = self.stream = Stream(self._request, reply)
        self._fake.streams.append(stream)
        if reply.status != 200:
            await asyncio.sleep(reply.first_delay_s)
            await self._send_error(reply)
        elif not await self._fail_at_once(reply):
            completion = Completion(self._request.json, reply)
            streams = completion.streaming and reply.fault != "whole"
            await (self._send_stream if streams else self._send_whole)(stream, completion)
        stream.end()

    async def _fail_at_once(self, reply: Reply) -> bool:
        """The faults before any content. Whether it was one."""
        match reply.fault:
            case "close_before_headers":
                await self._close()
            case "silent_before_headers":
                await _forever()
            case "empty_body":
                await self._send(200, b"")
            case "html":
                await self._send(200, HTML_PAGE, "text/html")
            case _:
                return False
        return True

    async def _send_stream(self, stream: Stream, completion: Completion) -> None:
        reply = completion.reply
        await self._start(200, "text/event-stream", {})
        await self._write(completion.event({"role": "assistant", "content": ""}))
        async for kind, text in completion.tokens():
            if reply.broken and stream.tokens_sent >= reply.after_tokens:
                break
            await self._write(completion.event({kind: text}))
            stream.tokens_sent += 1
        match reply.fault:
            case "stall":
                await _forever()
            case "cut":
                await self._close()
            case "garbage":
                await self._write(b'data: {"choices": [{]] not json \xff\xfe\n\n<<garbage>>\n\n')
            case "error_event":
                await self._write(f"data: {reply.error_body}\n\n".encode())
        if not reply.broken:
            await self._write(completion.last_events())
            stream.end()  # before the client can see the end and leave
            await self._write(b"data: [DONE]\n\n")
        if reply.fault == "open_after_done":
            await _forever()
        await self._write(b"", more=False)

    async def _send_whole(self, stream: Stream, completion: Completion) -> None:
        async for _ in completion.tokens():
            stream.tokens_sent += 1
        if completion.reply.broken:
            await self._close()
        await self._send(200, completion.whole())

    async def _send_error(self, reply: Reply) -> None:
        # As some servers do, it repeats the key: nothing of this text may reach a user.
        detail = f"fake upstream detail, status {reply.status}, key {self._request.api_key}"
        error = {"message": reply.error_message or detail, "code": ERROR_CODES.get(reply.status)}
        body = reply.error_body.encode() or to_json({"error": error | {"type": "fake_error"}})
        headers = {"retry-after": reply.retry_after} if reply.retry_after else {}
        await self._send(reply.status, body, **headers)

    async def _send(self, status: int, body: bytes, kind: str = "application/json", **headers: str) -> None:
        self._end_stream()
        headers |= {"content-length": str(len(body))}
        await self._start(status, kind, headers)
        await self._write(body)
        await self._write(b"", more=False)

    async def _start(self, status: int, kind: str, headers: Mapping[str, str]) -> None:
        pairs = [(name.encode(), value.encode()) for name, value in {"content-type": kind, **headers}.items()]
        await self._asgi_send({"type": "http.response.start", "status": status, "headers": pairs})

    async def _write(self, data: bytes, *, more: bool = True) -> None:
        size = (self.stream.reply.write_bytes if self.stream else 0) or len(data) or 1
        for part in [data[start : start + size] for start in range(0, len(data) or 1, size)]:
            await self._asgi_send({"type": "http.response.body", "body": part, "more_body": more})
            await asyncio.sleep(0)

    def _end_stream(self) -> None:
        if self.stream is not None:
            self.stream.end()

    async def _close(self) -> None:
        """End the connection here and now."""
        self._end_stream()
        self._asgi_send.__self__.transport.close()
        await _forever()


async def _forever() -> None:
    await asyncio.Event().wait()


def free_port() -> int:
    """A port where nothing listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def refused_url() -> str:
    """A base URL whose connections are refused."""
    return f"http://127.0.0.1:{free_port()}/v1"
