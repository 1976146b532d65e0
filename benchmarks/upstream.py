"""The local OpenAI-compatible server, the same one for us and for every peer, in a process of its own.

Lean on purpose: what it costs is not what is measured. Each token of its reply is a time stamp, so that
whoever reads it knows the token's age: ``x<hundred-thousandths of a second of CLOCK_MONOTONIC>x``, rising
within a reply. The reply is one of `dspy.ChainOfThought`, in the format of DSPy's chat adapter: half of the
tokens reasoning, half of them the answer.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from benchmarks.processes import running
from tests.fake_openai import free_port

TICKS_PER_S = 100_000
_OPENING, _MIDDLE, _CLOSING = (
    "[[ ## reasoning ## ]]\n",
    "\n\n[[ ## answer ## ]]\n",
    "\n\n[[ ## completed ## ]]\n",
)


@dataclass(frozen=True)
class Pace:
    """How the replies come from here on.

    Attributes:
        tokens: Of one reply.
        per_second: 0: the whole reply at once, as fast as the socket takes it.
    """

    tokens: int = 20
    per_second: float = 0.0


@dataclass(frozen=True)
class Upstream:
    """The running server, as a scenario sees it; `url` is the base URL for clients."""

    url: str

    def pace(self, pace: Pace) -> None:
        self._call("/pace", json.dumps(asdict(pace)).encode())

    @property
    def calls(self) -> int:
        """Completions asked for so far."""
        return int(self._call("/calls"))

    def _call(self, path: str, body: bytes | None = None) -> bytes:
        with urllib.request.urlopen(self.url.removesuffix("/v1") + path, body, timeout=10) as reply:
            content: bytes = reply.read()
            return content


@contextmanager
def upstream(pace: Pace | None = None) -> Iterator[Upstream]:
    port = free_port()
    command = ["-m", "benchmarks.upstream", "--port", str(port)]
    with running(command, port, ready_path="/calls", env={}) as process:
        server = Upstream(f"{process.url}/v1")
        if pace:
            server.pace(pace)
        yield server


# The server's side


class _Replies:
    """What all connections share."""

    pace = Pace()
    calls = 0


class _Connection(asyncio.Protocol):
    def __init__(self, replies: _Replies) -> None:
        self._replies = replies
        self._loop = asyncio.get_running_loop()
        self._buffer = b""
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, separator, rest = self._buffer.partition(b"\r\n\r\n")
        if not separator:
            return
        lines = head.lower().split(b"\r\n")
        length = next((int(line[15:]) for line in lines if line.startswith(b"content-length:")), 0)
        if len(rest) < length:
            return
        self._buffer = rest[length:]
        self._answer(head.split(b" ", 2)[1], rest[:length])

    def _answer(self, path: bytes, body: bytes) -> None:
        if path.startswith(b"/pace"):
            self._replies.pace = Pace(**json.loads(body))
            self._send(b"{}")
        elif path.endswith(b"/chat/completions"):
            self._replies.calls += 1
            reply = _Reply(self._replies.pace)
            (self._stream if json.loads(body).get("stream") else self._whole)(reply)
        elif path.endswith(b"/models"):
            self._send(b'{"object": "list", "data": [{"id": "fake", "object": "model"}]}')
        else:
            self._send(str(self._replies.calls).encode())

    def _send(self, body: bytes) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
        self._transport.write(head + body)

    def _whole(self, reply: _Reply) -> None:
        message = {"role": "assistant", "content": "".join(text for part in reply.parts() for text in part)}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        body = {"id": "c", "object": "chat.completion", "created": 0, "model": "fake", "choices": [choice]}
        self._send(json.dumps(body | {"usage": reply.usage}).encode())

    def _stream(self, reply: _Reply) -> None:
        self._transport.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        parts = reply.parts()
        if not reply.pace.per_second:
            self._transport.write(b"".join(_chunk(text) for part in parts for text in part) + reply.end())
            return
        self._tick(reply, parts, self._loop.time())

    def _tick(self, reply: _Reply, parts: Iterator[list[str]], due: float) -> None:
        """The next token when it is due, counted from the start, so that the pace does not drift."""
        part = next(parts, None)
        if part is None:
            self._transport.write(reply.end())
            return
        self._transport.write(b"".join(map(_chunk, part)))
        due += 1 / reply.pace.per_second
        self._timer = self._loop.call_at(due, self._tick, reply, parts, due)


class _Reply:
    def __init__(self, pace: Pace) -> None:
        self.pace = pace
        self.usage = {"prompt_tokens": 50, "completion_tokens": pace.tokens, "total_tokens": 50 + pace.tokens}

    def parts(self) -> Iterator[list[str]]:
        """What is written at once: one token, with the marker before it where there is one."""
        stamp = 0
        for number in range(self.pace.tokens):
            stamp = max(stamp + 1, int(time.monotonic() * TICKS_PER_S))
            marker = {0: _OPENING, self.pace.tokens // 2: _MIDDLE}.get(number, "")
            yield [*_words(marker), f" x{stamp}x"]
        yield _words(_CLOSING)

    def end(self) -> bytes:
        stop = b'{"index":0,"delta":{},"finish_reason":"stop"}'
        events = (
            _event(stop) + _event(b"", b',"usage":' + json.dumps(self.usage).encode()) + b"data: [DONE]\n\n"
        )
        return _http_chunk(events) + b"0\r\n\r\n"


def _words(text: str) -> list[str]:
    """A marker as a model's tokens cut it."""
    return ["".join(pair) for pair in itertools.zip_longest(*[iter(text)] * 4, fillvalue="")] if text else []


def _chunk(text: str) -> bytes:
    return _http_chunk(
        _event(b'{"index":0,"delta":{"content":%b},"finish_reason":null}' % json.dumps(text).encode())
    )


def _event(choice: bytes, more: bytes = b"") -> bytes:
    return (
        b'data: {"id":"c","object":"chat.completion.chunk","created":0,"model":"fake","choices":[%b]%b}\n\n'
        % (choice, more)
    )


def _http_chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def serve(port: int) -> None:
    replies = _Replies()
    server = await asyncio.get_running_loop().create_server(
        lambda: _Connection(replies), "127.0.0.1", port, backlog=1024
    )
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    asyncio.run(serve(parser.parse_args().port))
