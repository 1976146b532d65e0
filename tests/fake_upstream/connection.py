"""One connection to the fake: requests in, replies or faults out, byte by byte where needed."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tests.fake_upstream.completion import Completion, paced, to_json
from tests.fake_upstream.pages import page
from tests.fake_upstream.records import Request, Stream
from tests.fake_upstream.replies import Reply

if TYPE_CHECKING:
    from tests.fake_openai import FakeOpenAI

REASONS = {200: "OK", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found", 429: "Too Many Requests"}
ERROR_CODES = {401: "invalid_api_key", 404: "model_not_found", 429: "rate_limit_exceeded"}
HTML_PAGE = "<!doctype html><html><body><h1>Sign in to the hotel's network</h1></body></html>"


class Connection(asyncio.Protocol):
    """One TCP connection: parses requests, answers one at a time, notices at once when the client leaves."""

    def __init__(self, fake: FakeOpenAI) -> None:
        self._fake = fake
        self._buffer = bytearray()
        self._task: asyncio.Task[None] | None = None
        self._stream: Stream | None = None
        self._writable = asyncio.Event()
        self._writable.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._fake._connections.add(self)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._buffer.startswith(b"\x16"):  # somebody begins to speak TLS
            self._transport.write(_head(400, "text/plain", ["Connection: close"]))
            self._transport.close()
            return
        self._start_next()

    def eof_received(self) -> None:
        self._client_left()

    def connection_lost(self, exc: Exception | None) -> None:
        self._fake._connections.discard(self)
        self._client_left()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def abort(self) -> asyncio.Task[None] | None:
        """Reset the connection. Returns the task that is ending, where there is one."""
        self._end_stream()
        if self._task is not None:
            self._task.cancel()
        self._transport.abort()
        return self._task

    def _client_left(self) -> None:
        self._end_stream(client_left=True)
        if self._task is not None:
            self._task.cancel()

    def _end_stream(self, *, client_left: bool = False, completed: bool = False) -> None:
        """Record the end of the running completion, once."""
        stream, self._stream = self._stream, None
        if stream is not None:

            def change() -> None:
                stream.closed_at = time.monotonic()
                stream.client_left, stream.completed = client_left, completed

            self._fake.record(change)

    # --- requests ---

    def _start_next(self) -> None:
        if self._task is None and (request := self._take_request()):
            self._fake.record(lambda: self._fake._requests.append(request))
            self._task = asyncio.get_running_loop().create_task(self._answer(request))
            self._task.add_done_callback(self._answered)

    def _answered(self, task: asyncio.Task[None]) -> None:
        self._task = None
        if task.cancelled():
            return
        if error := task.exception():
            print(f"fake_openai: {error!r}", file=sys.stderr)
            self.abort()
        elif not self._transport.is_closing():
            self._start_next()

    def _take_request(self) -> Request | None:
        """The next request in the buffer, if it is whole."""
        head, separator, rest = bytes(self._buffer).partition(b"\r\n\r\n")
        if not separator:
            return None
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = int(headers.get("content-length", "0"))
        if len(rest) < length:
            return None
        del self._buffer[: len(head) + 4 + length]
        method, path, _ = first.split(" ", 2)
        return Request(method, path, headers, rest[:length])

    async def _answer(self, request: Request) -> None:
        path = request.path.partition("?")[0].removeprefix("/v1").rstrip("/")
        if request.method == "GET" and self._fake.get_reply is not None:
            await self._answer_get_fault(self._fake.get_reply)
        elif request.method == "POST" and path == "/chat/completions":
            await self._answer_chat(request)
        elif (value := page(self._fake, request, path)) is not None:
            await self._send(200, "application/json", to_json(value))
        else:
            await self._send_error(request, Reply(status=404, error_message=f"no route {request.path}"))

    async def _answer_get_fault(self, reply: Reply) -> None:
        if reply.fault is not None:
            await self._fail_at_once(reply)
        else:
            await asyncio.sleep(reply.first_delay_s)
            await self._send(reply.status, "application/json", (reply.text or "{}").encode())

    async def _answer_chat(self, request: Request) -> None:
        reply = self._fake.next_reply(request)
        stream = self._stream = Stream(request, reply)
        self._fake.record(lambda: self._fake._streams.append(stream))
        if reply.status != 200:
            await asyncio.sleep(reply.first_delay_s)
            await self._send_error(request, reply)
        elif not await self._fail_at_once(reply):
            completion = Completion(request.json, reply, self._fake.tokens_per_second, self._fake.tokens)
            if completion.streaming and reply.fault != "whole":
                await self._send_stream(stream, completion)
            else:
                await self._send_whole(stream, completion)
        self._end_stream(completed=not self._transport.is_closing())

    # --- replies ---

    async def _fail_at_once(self, reply: Reply) -> bool:
        """The faults that come before any content. Whether it was one."""
        match reply.fault:
            case "close_before_headers":
                self._hang_up()
            case "silent_before_headers":
                await _forever()
            case "silent_after_headers":
                await self._send_stream_head()
                await _forever()
            case "empty_body":
                await self._send(200, "application/json", b"")
            case "html":
                await self._send(200, "text/html", HTML_PAGE.encode())
            case _:
                return False
        return True

    async def _fail_midway(self, reply: Reply) -> None:
        """The faults after some tokens: what comes instead of the rest."""
        match reply.fault:
            case "stall":
                await _forever()
            case "cut":
                self._hang_up()
            case "clean_cut":
                self._transport.write(b"0\r\n\r\n")
                self._transport.close()
            case "garbage":
                await self._write_chunk(b'data: {"choices": [{]] not json \xff\xfe\n\n<<garbage>>\n\n')
                self._transport.write(b"0\r\n\r\n")
                self._transport.close()

            case "error_event":
                await self._write_chunk(f"data: {reply.error_body}\n\n".encode())
                self._transport.write(b"0\r\n\r\n")

    def _hang_up(self) -> None:
        """Close without an orderly end, after what was written is out."""
        self._transport.close()

    async def _send_stream(self, stream: Stream, completion: Completion) -> None:
        reply = completion.reply
        broken = reply.fault is not None and reply.fault != "open_after_done"
        await self._send_stream_head()
        await self._write_chunk(completion.event({"role": "assistant", "content": ""}), reply.write_bytes)
        async for kind, text in paced(completion):
            if broken and stream.tokens_sent >= reply.after_tokens:
                break
            await self._write_chunk(completion.event({kind: text}), reply.write_bytes)
            self._count(stream, text)
        if broken:
            await self._fail_midway(reply)
            return
        *events, done = completion.last_events()
        for event in events:
            await self._write_chunk(event, reply.write_bytes)
        self._end_stream(completed=True)  # before the client can see the end and leave
        await self._write_chunk(done, reply.write_bytes)
        if reply.fault == "open_after_done":
            await _forever()
        self._transport.write(b"0\r\n\r\n")

    async def _send_whole(self, stream: Stream, completion: Completion) -> None:
        reply = completion.reply
        broken = reply.fault not in {None, "whole", "open_after_done"}
        async for _, text in paced(completion):
            if broken and stream.tokens_sent >= reply.after_tokens:
                break
            self._count(stream, text)
        body = completion.whole()
        if reply.fault == "garbage":
            await self._send(200, "application/json", b'{"choices": [{]] \xff')
        elif reply.fault == "error_event":
            await self._send(200, "application/json", reply.error_body.encode())
        elif broken:
            head = _head(200, "application/json", [f"Content-Length: {len(body)}"])
            await self._write(head + body[: len(body) // 2])
            await self._fail_midway(reply if reply.fault == "stall" else Reply(fault="cut"))
        else:
            await self._send(200, "application/json", body, reply.write_bytes)

    def _count(self, stream: Stream, text: str) -> None:
        def change() -> None:
            stream.first_token_at = stream.first_token_at or time.monotonic()
            stream.tokens_sent += 1
            stream.text_sent += text

        self._fake.record(change)

    async def _send_error(self, request: Request, reply: Reply) -> None:
        # As some servers do, it repeats the key: nothing of this text may reach a user.
        message = reply.error_message or f"fake upstream detail, status {reply.status}, key {request.api_key}"
        error = {
            "message": message,
            "type": "fake_error",
            "code": ERROR_CODES.get(reply.status),
            "param": None,
        }
        wait = reply.retry_after or (None if reply.retry_after_s is None else f"{reply.retry_after_s:g}")
        extra = [] if wait is None else [f"Retry-After: {wait}"]
        body = reply.error_body.encode() or to_json({"error": error})
        await self._send(reply.status, "application/json", body, extra=extra)

    async def _send(
        self, status: int, kind: str, body: bytes, write_bytes: int = 0, *, extra: Sequence[str] = ()
    ) -> None:
        head = _head(status, kind, [f"Content-Length: {len(body)}", *extra])
        self._end_stream(completed=True)
        await self._write(head + body, write_bytes)

    async def _send_stream_head(self) -> None:
        await self._write(_head(200, "text/event-stream", ["Transfer-Encoding: chunked"]))

    async def _write_chunk(self, data: bytes, write_bytes: int = 0) -> None:
        await self._write(b"%x\r\n%b\r\n" % (len(data), data), write_bytes)

    async def _write(self, data: bytes, write_bytes: int = 0) -> None:
        for start in range(0, len(data), write_bytes or len(data) or 1):
            await self._writable.wait()
            self._transport.write(data[start : start + write_bytes] if write_bytes else data)
            await asyncio.sleep(0)


def _head(status: int, kind: str, headers: Sequence[str]) -> bytes:
    lines = [f"HTTP/1.1 {status} {REASONS.get(status, 'Error')}", f"Content-Type: {kind}", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


async def _forever() -> None:
    await asyncio.Event().wait()
