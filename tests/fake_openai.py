"""A real local server that speaks OpenAI's chat API, and every way in which such a server can fail.

It runs on a thread with an event loop of its own, on raw sockets, because most faults are byte-level.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Self, TypeVar

from tests.fake_upstream import FAULTS, ODDITIES, Completion, Reply, Request, Stream, to_json, tool_reply

__all__ = ["FAULTS", "ODDITIES", "FakeOpenAI", "Reply", "Request", "Stream", "tool_reply"]

T = TypeVar("T")
Responder = Callable[[dict[str, Any]], Reply | None]
ERROR_CODES = {401: "invalid_api_key", 404: "model_not_found", 429: "rate_limit_exceeded"}
HTML_PAGE = b"<!doctype html><html><body><h1>Sign in to the hotel's network</h1></body></html>"
OLLAMA_MODELS = {"fake-chat:latest": "completion", "fake-embed:latest": "embedding"}
LAST_CHUNK = b"0\r\n\r\n"


class FakeOpenAI:
    """The server; `url` is the base URL for clients. Every method may be called from any thread.

    What nobody scripted is an answer to the prompt, in the format that DSPy's adapter asks for.
    """

    def __init__(self, *, tokens_per_second: float = 0.0) -> None:
        self.port = 0
        self.tokens_per_second = tokens_per_second
        self.models = ["fake"]
        self.get_reply: Reply | None = None  # a fault for GET requests (detection probes)
        self.requests: list[Request] = []
        self.streams: list[Stream] = []
        self.connections: set[Connection] = set()
        self._replies: deque[Reply] = deque()
        self._responder: Responder | None = None
        self._started = threading.Event()

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
        server = await asyncio.start_server(
            lambda reader, writer: Connection(self, reader, writer).run(), "127.0.0.1", 0, backlog=1024
        )
        self.port = server.sockets[0].getsockname()[1]
        self._started.set()
        await self._stop.wait()
        server.close()
        for connection in list(self.connections):
            connection.abort()

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
        for connection in list(self.connections):
            self._loop.call_soon_threadsafe(connection.abort)

    def next_reply(self, request: Request) -> Reply:
        if self._responder and (reply := self._responder(request.json)):
            return reply
        return self._replies.popleft() if self._replies else Reply()

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


class Connection:
    """One TCP connection: answers a request at a time, and notices at once when the client leaves."""

    def __init__(self, fake: FakeOpenAI, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._fake, self._reader, self._writer = fake, reader, writer
        self._stream: Stream | None = None
        self._task: asyncio.Task[None] | None = None
        self._write_bytes = 0

    async def run(self) -> None:
        self._task = asyncio.current_task()
        self._fake.connections.add(self)
        try:
            first = await self._reader.read(1)
            while first:
                if first == b"\x16":  # somebody begins to speak TLS
                    self._writer.write(_head(400, "text/plain", ["Connection: close"]))
                    return
                first = await self._answered(await self._read(first))
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._fake.connections.discard(self)
            self._end_stream(client_left=True)
            self._writer.close()

    def abort(self) -> None:
        self._writer.transport.abort()
        if self._task is not None:
            self._task.cancel()

    async def _read(self, first: bytes) -> Request:
        head = first + await self._reader.readuntil(b"\r\n\r\n")
        line, *lines = head.decode("latin-1").strip().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        method, path, _ = line.split(" ", 2)
        body = await self._reader.readexactly(int(headers.get("content-length", "0")))
        return Request(method, path, headers, body)

    async def _answered(self, request: Request) -> bytes:
        """Gives the first byte of the next request; empty where the client leaves."""
        self._fake.requests.append(request)
        answering = asyncio.create_task(self._answer(request))
        following = asyncio.create_task(self._reader.read(1))
        try:
            await asyncio.wait({answering, following}, return_when=asyncio.FIRST_COMPLETED)
            if following.done() and not following.result():
                return b""
            await answering
            return await following
        finally:
            answering.cancel()
            following.cancel()

    def _end_stream(self, *, client_left: bool = False) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.closed_at, stream.client_left = time.monotonic(), client_left

    async def _answer(self, request: Request) -> None:
        path = request.path.partition("?")[0].removeprefix("/v1").rstrip("/")
        fault = self._fake.get_reply if request.method == "GET" else None
        if fault is not None and fault.fault is None:
            await asyncio.sleep(fault.first_delay_s)
            await self._send(fault.status, (fault.text or "{}").encode())
        elif fault is not None:
            await self._fail_at_once(fault)
        elif (request.method, path) == ("POST", "/chat/completions"):
            await self._complete(request)
        elif (value := self._page(request, path)) is not None:
            await self._send(200, to_json(value))
        else:
            await self._send_error(request, Reply(status=404, error_message=f"no route {request.path}"))

    def _page(self, request: Request, path: str) -> Any:
        """OpenAI's model list, and what Ollama is recognised by."""
        models = [{"name": name, "capabilities": [can]} for name, can in OLLAMA_MODELS.items()]
        pages = {
            "GET /models": {"object": "list", "data": [{"id": name} for name in self._fake.models]},
            "GET /api/tags": {"models": models},
            "GET /api/version": {"version": "0.0.0-fake"},
            "POST /api/show": {"capabilities": [OLLAMA_MODELS.get(request.json.get("model", ""), "")]},
            "GET ": "Ollama is running",
        }
        return pages.get(f"{request.method} {path}")

    async def _complete(self, request: Request) -> None:
        reply = self._fake.next_reply(request)
        stream = self._stream = Stream(request, reply)
        self._write_bytes = reply.write_bytes
        self._fake.streams.append(stream)
        if reply.status != 200:
            await asyncio.sleep(reply.first_delay_s)
            await self._send_error(request, reply)
        elif not await self._fail_at_once(reply):
            completion = Completion(request.json, reply, self._fake.tokens_per_second)
            streams = completion.streaming and reply.fault != "whole"
            await (self._send_stream if streams else self._send_whole)(stream, completion)
        self._end_stream()

    async def _fail_at_once(self, reply: Reply) -> bool:
        """The faults before any content. Whether it was one."""
        match reply.fault:
            case "close_before_headers":
                self._writer.close()
            case "silent_before_headers":
                await _forever()
            case "silent_after_headers":
                await self._send_stream_head()
                await _forever()
            case "empty_body":
                await self._send(200, b"")
            case "html":
                await self._send(200, HTML_PAGE, "text/html")
            case _:
                return False
        return True

    async def _fail_midway(self, reply: Reply) -> None:
        match reply.fault:
            case "stall":
                await _forever()
            case "garbage":
                await self._write_chunk(b'data: {"choices": [{]] not json \xff\xfe\n\n<<garbage>>\n\n')
            case "error_event":
                await self._write_chunk(f"data: {reply.error_body}\n\n".encode())
        if reply.fault != "cut":
            self._writer.write(LAST_CHUNK)
        if reply.fault != "error_event":
            self._writer.close()

    async def _send_stream(self, stream: Stream, completion: Completion) -> None:
        reply = completion.reply
        await self._send_stream_head()
        await self._write_chunk(completion.event({"role": "assistant", "content": ""}))
        async for kind, text in completion.tokens():
            if reply.ends_at(stream.tokens_sent):
                break
            await self._write_chunk(completion.event({kind: text}))
            stream.tokens_sent += 1
        if reply.broken:
            await self._fail_midway(reply)
            return
        *events, done = completion.last_events()
        for event in events:
            await self._write_chunk(event)
        self._end_stream()  # before the client can see the end and leave
        await self._write_chunk(done)
        if reply.fault == "open_after_done":
            await _forever()
        self._writer.write(LAST_CHUNK)

    async def _send_whole(self, stream: Stream, completion: Completion) -> None:
        body = completion.whole()
        async for _ in completion.tokens():
            stream.tokens_sent += 1
        if completion.reply.broken:
            await self._write(_head(200, headers=[f"Content-Length: {len(body)}"]) + body[: len(body) // 2])
            self._writer.close()
        else:
            await self._send(200, body)

    async def _send_error(self, request: Request, reply: Reply) -> None:
        # As some servers do, it repeats the key: nothing of this text may reach a user.
        message = reply.error_message or f"fake upstream detail, status {reply.status}, key {request.api_key}"
        code = ERROR_CODES.get(reply.status)
        error = {"message": message, "type": "fake_error", "code": code, "param": None}
        wait = reply.retry_after or (None if reply.retry_after_s is None else f"{reply.retry_after_s:g}")
        headers = [] if wait is None else [f"Retry-After: {wait}"]
        body = reply.error_body.encode() or to_json({"error": error})
        await self._send(reply.status, body, headers=headers)

    async def _send(
        self, status: int, body: bytes, kind: str = "application/json", *, headers: Sequence[str] = ()
    ) -> None:
        self._end_stream()
        await self._write(_head(status, kind, [f"Content-Length: {len(body)}", *headers]) + body)

    async def _send_stream_head(self) -> None:
        await self._write(_head(200, "text/event-stream", ["Transfer-Encoding: chunked"]))

    async def _write_chunk(self, data: bytes) -> None:
        await self._write(b"%x\r\n%b\r\n" % (len(data), data))

    async def _write(self, data: bytes) -> None:
        size = self._write_bytes or len(data)
        for start in range(0, len(data), size):
            self._writer.write(data[start : start + size])
            await self._writer.drain()
            await asyncio.sleep(0)


def _head(status: int, kind: str = "application/json", headers: Sequence[str] = ()) -> bytes:
    lines = [f"HTTP/1.1 {status} Status", f"Content-Type: {kind}", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


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
