"""A real local server that speaks OpenAI's chat API, and every way in which such a server can fail.

    with FakeOpenAI() as fake:
        fake.reply(text="Hello", tokens_per_second=20)     # the next request gets this
        fake.reply(FAULTS["cut"], times=2)                 # the two after it
        ...  # then: an answer to the prompt, in the format that DSPy's adapter asks for
        fake.wait_for(lambda: fake.streams[-1].closed_at)

It runs on a thread with an event loop of its own, on raw sockets, because most faults are byte-level.
Alone, for benchmarks and for playing: ``python tests/fake_openai.py --port 8000 --tokens-per-second 50``.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Self, TypeVar

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # for `python tests/fake_openai.py`

from tests.fake_upstream.connection import Connection
from tests.fake_upstream.records import Request, Stream
from tests.fake_upstream.replies import (
    FAULTS,
    ODDITIES,
    Reply,
    cut_reply,
    error_reply,
    huge_reply,
    stall_reply,
    tool_reply,
)

__all__ = [
    "FAULTS",
    "ODDITIES",
    "FakeOpenAI",
    "Reply",
    "Request",
    "Stream",
    "cut_reply",
    "error_reply",
    "free_port",
    "huge_reply",
    "refused_url",
    "stall_reply",
    "tool_reply",
]

T = TypeVar("T")
Responder = Callable[[dict[str, Any]], Reply | None]


class FakeOpenAI:
    """The server; `url` is the base URL for clients. Every method may be called from any thread.

    Args:
        port: 0 takes a free one.
        tokens_per_second: The pace of replies that do not say theirs; 0 is as fast as possible.
        tokens: Pad default answers to about so many words.
        api_key: Where given, any other key gets a 401.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        tokens_per_second: float = 0.0,
        tokens: int = 0,
        api_key: str | None = None,
    ) -> None:
        self.host = host
        self.port = port
        self.tokens_per_second = tokens_per_second
        self.tokens = tokens
        self.api_key = api_key
        self.models: list[str] = ["fake"]
        self.ollama_models: dict[str, list[str]] = {
            "fake-chat:latest": ["completion"],
            "fake-embed:latest": ["embedding"],
        }
        self.get_reply: Reply | None = None  # a fault for GET requests (detection probes)
        self.loop: asyncio.AbstractEventLoop | None = None
        self._changed = threading.Condition(threading.RLock())
        self._replies: deque[Reply] = deque()
        self._responder: Responder | None = None
        self._requests: list[Request] = []
        self._streams: list[Stream] = []
        self._connections: set[Connection] = set()
        self._thread: threading.Thread | None = None
        self._started = threading.Event()

    # --- life ---

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._run, name="fake-openai", daemon=True)
        self._thread.start()
        assert self._started.wait(10), "the fake server did not start"
        assert self.loop is not None, f"the fake server could not listen on {self.host}:{self.port}"
        return self

    def __exit__(self, *_: object) -> None:
        assert self.loop is not None and self._thread is not None
        self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        assert not self._thread.is_alive(), "the fake server did not stop"

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        finally:
            self._started.set()

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Connection(self), self.host, self.port, backlog=1024)
        self.port = server.sockets[0].getsockname()[1]
        self.loop = loop
        self._started.set()
        await self._stop.wait()
        server.close()
        tasks = [task for connection in list(self._connections) if (task := connection.abort())]
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def origin(self) -> str:
        """Without ``/v1``: what Ollama calls its host."""
        return f"http://{self.host}:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.origin}/v1"

    # --- script ---

    def reply(self, reply: Reply | None = None, /, *, times: int = 1, **fields: Any) -> None:
        """Queue an answer: a `Reply`, or its fields, or both. An empty queue gives default answers."""
        with self._changed:
            self._replies.extend([replace(reply or Reply(), **fields)] * times)

    def respond_with(self, responder: Responder | None) -> None:
        """Ask `responder` for each reply, before the queue; None from it goes on to the queue."""
        with self._changed:
            self._responder = responder

    def reset(self) -> None:
        """Forget script and records, and close every connection."""
        with self._changed:
            self._replies.clear()
            self._responder = self.get_reply = None
            self._requests.clear()
            self._streams.clear()
        self.drop_connections()

    def drop_connections(self) -> None:
        """Reset every connection, as a crashing server does."""
        assert self.loop is not None
        for connection in list(self._connections):
            self.loop.call_soon_threadsafe(connection.abort)

    def next_reply(self, request: Request) -> Reply:
        if self.api_key is not None and request.api_key != self.api_key:
            return Reply(status=401)
        with self._changed:
            responder = self._responder
        if responder and (reply := responder(request.json)):
            return reply
        with self._changed:
            return self._replies.popleft() if self._replies else Reply()

    # --- observation ---

    @property
    def requests(self) -> list[Request]:
        """Every request so far, of every path."""
        with self._changed:
            return list(self._requests)

    @property
    def streams(self) -> list[Stream]:
        """Every chat completion so far, in the order of arrival."""
        with self._changed:
            return list(self._streams)

    @property
    def connections(self) -> list[Connection]:
        """Those that are open."""
        return list(self._connections)

    @property
    def active_streams(self) -> int:
        with self._changed:
            return sum(stream.closed_at is None for stream in self._streams)

    def wait_for(self, predicate: Callable[[], T], timeout: float = 10.0) -> T:
        """Block until `predicate` is true, and return what it gave.

        Raises:
            TimeoutError: It did not become true. The message holds the state of the streams.
        """
        deadline = time.monotonic() + timeout
        with self._changed:
            while not (result := _value_or_none(predicate)):
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    raise TimeoutError(
                        f"not true in {timeout} s; {len(self._requests)} requests; {self._streams}"
                    )
                self._changed.wait(min(left_s, 0.05))
            return result

    async def await_for(self, predicate: Callable[[], T], timeout: float = 10.0) -> T:
        """`wait_for` without blocking the event loop of the test."""
        return await asyncio.to_thread(self.wait_for, predicate, timeout)

    def record(self, change: Callable[[], Any]) -> None:
        with self._changed:
            change()
            self._changed.notify_all()


def _value_or_none(predicate: Callable[[], T]) -> T | None:
    try:
        return predicate()
    except IndexError:  # `fake.streams[-1]` before there is one
        return None


def free_port() -> int:
    """A port where nothing listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def refused_url() -> str:
    """A base URL whose connections are refused."""
    return f"http://127.0.0.1:{free_port()}/v1"


def main() -> None:
    parser = argparse.ArgumentParser(description="A fake OpenAI-compatible server.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--tokens-per-second", type=float, default=50.0, help="0: as fast as possible")
    parser.add_argument("--tokens", type=int, default=0, help="pad answers to about so many words")
    options = parser.parse_args()
    with FakeOpenAI(
        host=options.host,
        port=options.port,
        tokens_per_second=options.tokens_per_second,
        tokens=options.tokens,
    ) as fake:
        print(f"fake OpenAI at {fake.url}", flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            print("stopped")


if __name__ == "__main__":
    main()
