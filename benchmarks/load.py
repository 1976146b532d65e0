"""Clients that read streams of the upstream's stamped tokens, whatever they are wrapped in."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from benchmarks.upstream import TICKS_PER_S

_STAMP = re.compile(rb"x(\d{6,15})x")
#: Longest stamp: as much of a piece is looked at again with the next.
_TAIL = 17


@dataclass
class Heard:
    """A reply's tokens as they arrive.

    Attributes:
        ages_s: The age of each token when it arrived.
        sent_s: When the request was sent, on the clock of `time.monotonic`.
        first_s: When the first token arrived.
    """

    ages_s: list[float] = field(default_factory=list)
    sent_s: float = 0.0
    first_s: float | None = None
    status: int = 0
    head: bytes = b""
    _latest: int = 0
    _tail: bytes = b""

    def hear(self, data: bytes) -> None:
        """Count the tokens that were not there before; a repeated text counts once."""
        now = time.monotonic()
        data = self._tail + data
        for found in _STAMP.finditer(data):
            stamp = int(found[1])
            if stamp > self._latest:
                self._latest = stamp
                self.ages_s.append(now - stamp / TICKS_PER_S)
                self.first_s = self.first_s or now
        self._tail = data[-_TAIL:]

    @property
    def tokens(self) -> int:
        return len(self.ages_s)

    @property
    def first_token_s(self) -> float:
        """Seconds from sending to the first token."""
        assert self.first_s is not None, f"no token came: {self.head[:800]!r}"
        return self.first_s - self.sent_s


class _Client(asyncio.Protocol):
    def __init__(self, request: bytes, heard: Heard, done: asyncio.Future[None]) -> None:
        self._request, self._heard, self._done = request, heard, done

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._heard.sent_s = time.monotonic()
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        heard = self._heard
        if len(heard.head) < 2000:
            heard.head += data[:2000]
            heard.status = heard.status or int(data[9:12])
        heard.hear(data)

    def connection_lost(self, error: Exception | None) -> None:
        if not self._done.done():
            self._done.set_result(None)


async def send(
    url: str, body: Mapping[str, Any] | None = None
) -> tuple[Heard, asyncio.Future[None], asyncio.Transport]:
    """Send a request, POST where it has a body. What is heard grows until the future is done."""
    parts = urlsplit(url)
    content = b"" if body is None else json.dumps(body).encode()
    target = f"{parts.path}?{parts.query}" if parts.query else parts.path
    request = (
        f"{'GET' if body is None else 'POST'} {target} HTTP/1.1\r\nHost: {parts.netloc}\r\n"
        f"Content-Type: application/json\r\nConnection: close\r\nContent-Length: {len(content)}\r\n\r\n"
    ).encode() + content
    loop = asyncio.get_running_loop()
    heard, done = Heard(), loop.create_future()
    transport, _ = await loop.create_connection(
        lambda: _Client(request, heard, done), parts.hostname, parts.port
    )
    return heard, done, transport


async def post(url: str, body: Mapping[str, Any], *, timeout_s: float = 120.0) -> Heard:
    """Send one request and read its reply to the end.

    Raises:
        RuntimeError: The status is not 200.
        TimeoutError: It did not end in time.
    """
    heard, done, transport = await send(url, body)
    try:
        await asyncio.wait_for(done, timeout_s)
    finally:
        transport.abort()
    if heard.status != 200:
        raise RuntimeError(f"{url} answered {heard.head[:1000]!r}")
    return heard


async def post_many(url: str, body: Mapping[str, Any], count: int, *, spread_s: float = 0.0) -> list[Heard]:
    """`count` requests at once, or over `spread_s`, so that their tokens do not come in step."""

    async def one(number: int) -> Heard:
        await asyncio.sleep(spread_s * number / count)
        return await post(url, body)

    return list(await asyncio.gather(*map(one, range(count))))
