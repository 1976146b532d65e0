"""The local OpenAI-compatible server, the same one for us and for every peer, in a process of its own.

Lean on purpose: what it costs is not what is measured. Each token of its reply is a time stamp, so that
whoever reads it knows the token's age: ``x<hundred-thousandths of a second of CLOCK_MONOTONIC>x``, rising
within a reply. The reply is one of `dspy.ChainOfThought`, in the format of DSPy's chat adapter: half of the
tokens reasoning, half of them the answer.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import re
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

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
    """How the replies come from here on; `per_second` 0 is the whole reply at once."""

    tokens: int = 20
    per_second: float = 0.0


@dataclass(frozen=True)
class Upstream:
    """The running server, as a scenario sees it; `url` is the base URL for clients."""

    url: str

    def pace(self, pace: Pace) -> None:
        address = self.url.removesuffix("/v1") + "/pace"
        urllib.request.urlopen(address, json.dumps(asdict(pace)).encode(), timeout=10).close()


@contextmanager
def upstream(pace: Pace | None = None) -> Iterator[Upstream]:
    port = free_port()
    command = ["-m", "benchmarks.upstream", "--port", str(port)]
    with running(command, port, ready_path="/", env={}) as process:
        server = Upstream(f"{process.url}/v1")
        if pace:
            server.pace(pace)
        yield server


# The server's side

_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\n%b\r\n\r\n"


class _Server:
    """What all connections share: the pace."""

    pace = Pace()

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                found = re.search(rb"content-length: *(\d+)", head)
                body = await reader.readexactly(int(found[1])) if found else b""
                await self._answer(head.split(b" ", 2)[1], body, writer)
        writer.close()

    async def _answer(self, path: bytes, body: bytes, writer: asyncio.StreamWriter) -> None:
        if path.endswith(b"/chat/completions"):
            if json.loads(body).get("stream"):
                await self._stream(writer)
                return
            answer = _whole(self.pace)
        elif path == b"/pace":
            self.pace, answer = Pace(**json.loads(body)), b"{}"
        elif path.endswith(b"/models"):
            answer = b'{"object": "list", "data": [{"id": "fake", "object": "model"}]}'
        else:
            answer = b"{}"
        writer.write(_HEAD % (b"application/json", b"Content-Length: %d" % len(answer)) + answer)

    async def _stream(self, writer: asyncio.StreamWriter) -> None:
        """Each token when it is due, counted from the start, so that the pace does not drift."""
        pace, loop = self.pace, asyncio.get_running_loop()
        writer.write(_HEAD % (b"text/event-stream", b"Transfer-Encoding: chunked"))
        due_s = loop.time()
        for part in _parts(pace.tokens):
            writer.write(b"".join(map(_delta, part)))
            if pace.per_second:
                due_s += 1 / pace.per_second
                await asyncio.sleep(due_s - loop.time())
                if writer.is_closing():
                    return
        stop = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
        writer.write(_event(stop) + _event({"choices": [], "usage": _usage(pace.tokens)}))
        writer.write(_chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")


def _parts(tokens: int) -> Iterator[list[str]]:
    """What is written at once: one token, with the marker before it where there is one."""
    stamp = 0
    for number in range(tokens):
        stamp = max(stamp + 1, int(time.monotonic() * TICKS_PER_S))
        marker = {0: _OPENING, tokens // 2: _MIDDLE}.get(number, "")
        yield [*_words(marker), f" x{stamp}x"]
    yield _words(_CLOSING)


def _words(text: str) -> list[str]:
    """A marker as a model's tokens cut it."""
    return ["".join(pair) for pair in itertools.zip_longest(*[iter(text)] * 4, fillvalue="")]


def _delta(text: str) -> bytes:
    return _event({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]})


def _event(fields: dict[str, Any]) -> bytes:
    same = {"id": "c", "object": "chat.completion.chunk", "created": 0, "model": "fake"}
    return _chunk(b"data: " + json.dumps(same | fields).encode() + b"\n\n")


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _usage(tokens: int) -> dict[str, int]:
    return {"prompt_tokens": 50, "completion_tokens": tokens, "total_tokens": 50 + tokens}


def _whole(pace: Pace) -> bytes:
    message = {"role": "assistant", "content": "".join(text for part in _parts(pace.tokens) for text in part)}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    same = {"id": "c", "object": "chat.completion", "created": 0, "model": "fake"}
    return json.dumps(same | {"choices": [choice], "usage": _usage(pace.tokens)}).encode()


async def serve(port: int) -> None:
    server = await asyncio.start_server(_Server().connected, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    asyncio.run(serve(parser.parse_args().port))
