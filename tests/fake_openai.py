"""A real local server that speaks OpenAI's chat API, and every way in which such a server can fail."""

import asyncio
import json
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, replace

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from dspy_demo.processes import free_port
from tests.fake_upstream import FAULTS, ODDITIES, Completion, Reply, to_json, tool_reply
from tests.processes import wait_until

__all__ = ["FAULTS", "ODDITIES", "FakeOpenAI", "Reply", "free_port", "refused_url", "tool_reply"]

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
    def json(self):
        return json.loads(self.body) if self.body else {}

    @property
    def api_key(self):
        """As OpenAI, Anthropic or Gemini take it."""
        bearer = self.headers.get("authorization", "").removeprefix("Bearer ")
        return bearer or self.headers.get("x-api-key", "") or self.headers.get("x-goog-api-key", "")


@dataclass
class Stream:
    """What happened to one answer; `closed_at` is by `time.monotonic()`, None while it is open."""

    request: Request
    reply: Reply
    tokens_sent: int = 0
    closed_at: float | None = None
    client_left: bool = False

    def end(self, *, client_left=False):
        if self.closed_at is None:
            self.closed_at, self.client_left = time.monotonic(), client_left


class FakeOpenAI:
    """The server; `url` is the base URL for clients. Every method may be called from any thread.

    What nobody scripted is an answer to the prompt, in the format that DSPy's adapter asks for.
    """

    def __init__(self):
        self.port = 0
        self.models = ["fake"]
        self.get_reply = None  # a `Reply` with a fault for GET requests (detection probes)
        self.requests, self.streams = [], []
        self._replies = deque()
        self._responder = None
        self._started = threading.Event()
        self._state = ServerState()

    def __enter__(self):
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._thread.start()
        assert self._started.wait(10), "the fake server did not start"
        return self

    def __exit__(self, *_):
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        assert not self._thread.is_alive(), "the fake server did not stop"

    async def _serve(self):
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        config = uvicorn.Config(self._app, interface="asgi3", log_config=None, lifespan="off")
        config.load()
        server = await self._loop.create_server(
            lambda: H11Protocol(config, self._state, {}), "127.0.0.1", 0, backlog=1024
        )
        self.port = server.sockets[0].getsockname()[1]
        self._started.set()
        await self._stop.wait()
        server.close()
        self._abort_all()

    def _abort_all(self):
        for connection in self.connections:
            connection.transport.abort()

    @property
    def connections(self):
        return list(self._state.connections)

    @property
    def origin(self):
        return f"http://127.0.0.1:{self.port}"

    @property
    def url(self):
        return f"{self.origin}/v1"

    @property
    def active_streams(self):
        return sum(stream.closed_at is None for stream in list(self.streams))

    def reply(self, reply=None, /, *, times=1, **fields):
        """Queue an answer: a `Reply`, or its fields, or both."""
        self._replies.extend([replace(reply or Reply(), **fields)] * times)

    def respond_with(self, responder):
        """Ask `responder` for the reply to each body, before the queue; None from it goes on to the queue."""
        self._responder = responder

    def reset(self):
        """Forget everything, and reset every connection."""
        self._responder = self.get_reply = None
        for kept in (self._replies, self.requests, self.streams):
            kept.clear()
        self._loop.call_soon_threadsafe(self._abort_all)

    def wait_for(self, predicate, timeout=10.0):
        """Block until `predicate` is true, and return what it gave."""

        def found():
            with suppress(IndexError):  # `fake.streams[-1]` before there is one
                return predicate()

        return wait_until(found, timeout, "what is waited for at the fake server")

    async def await_for(self, predicate, timeout=10.0):
        return await asyncio.to_thread(self.wait_for, predicate, timeout)

    async def _app(self, scope, receive, send):
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
            exchange.stream.end(client_left=True)

    def next_reply(self, request):
        if self._responder and (reply := self._responder(request.json)):
            return reply
        return self._replies.popleft() if self._replies else Reply()


class Exchange:
    """One request and its answer."""

    def __init__(self, fake, request, send):
        self._fake, self._request, self._asgi_send = fake, request, send
        self.stream = Stream(request, Reply())

    async def answer(self):
        request, path = self._request, self._request.path.removeprefix("/v1").rstrip("/")
        if request.method == "GET" and self._fake.get_reply:
            await self._fail_at_once(self._fake.get_reply)
        elif (request.method, path) == ("POST", "/chat/completions"):
            await self._complete()
        elif (value := self._page(path)) is not None:
            await self._send(200, to_json(value))
        else:
            await self._send_error(Reply(status=404, error_message=f"no route {request.path}"))

    def _page(self, path):
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

    async def _complete(self):
        reply = self.stream.reply = self._fake.next_reply(self._request)
        self._fake.streams.append(self.stream)
        if reply.status != 200:
            await asyncio.sleep(reply.first_delay_s)
            await self._send_error(reply)
        elif not await self._fail_at_once(reply):
            completion = Completion(self._request.json, reply)
            streams = completion.streaming and reply.fault != "whole"
            await (self._send_stream if streams else self._send_whole)(completion)
        self.stream.end()

    async def _fail_at_once(self, reply):
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

    async def _send_stream(self, completion):
        reply = completion.reply
        await self._start(200, "text/event-stream", {})
        await self._write(completion.event({"role": "assistant", "content": ""}))
        async for kind, text in completion.tokens():
            if reply.broken and self.stream.tokens_sent >= reply.after_tokens:
                break
            await self._write(completion.event({kind: text}))
            self.stream.tokens_sent += 1
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
            self.stream.end()  # before the client can see the end and leave
            await self._write(b"data: [DONE]\n\n")
        if reply.fault == "open_after_done":
            await _forever()
        await self._write(b"", more=False)

    async def _send_whole(self, completion):
        async for _ in completion.tokens():
            self.stream.tokens_sent += 1
        if completion.reply.broken:
            await self._close()
        await self._send(200, completion.whole())

    async def _send_error(self, reply):
        # As some servers do, it repeats the key: nothing of this text may reach a user.
        detail = f"fake upstream detail, status {reply.status}, key {self._request.api_key}"
        error = {"message": reply.error_message or detail, "code": ERROR_CODES.get(reply.status)}
        body = reply.error_body.encode() or to_json({"error": error | {"type": "fake_error"}})
        headers = {"retry-after": reply.retry_after} if reply.retry_after else {}
        await self._send(reply.status, body, **headers)

    async def _send(self, status, body, kind="application/json", **headers):
        self.stream.end()
        await self._start(status, kind, headers | {"content-length": str(len(body))})
        await self._write(body)
        await self._write(b"", more=False)

    async def _start(self, status, kind, headers):
        pairs = [(name.encode(), value.encode()) for name, value in {"content-type": kind, **headers}.items()]
        await self._asgi_send({"type": "http.response.start", "status": status, "headers": pairs})

    async def _write(self, data, *, more=True):
        size = self.stream.reply.write_bytes or len(data) or 1
        for part in [data[start : start + size] for start in range(0, len(data) or 1, size)]:
            await self._asgi_send({"type": "http.response.body", "body": part, "more_body": more})
            await asyncio.sleep(0)

    async def _close(self):
        """End the connection here and now."""
        self.stream.end()
        self._asgi_send.__self__.transport.close()
        await _forever()


async def _forever():
    await asyncio.Event().wait()


def refused_url():
    """A base URL whose connections are refused."""
    return f"http://127.0.0.1:{free_port()}/v1"
