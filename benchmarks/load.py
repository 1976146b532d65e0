"""Clients that read streams of the upstream's stamped tokens, whatever they are wrapped in."""

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
    """A reply's tokens and their ages, as they arrive. Times are those of `time.monotonic`."""

    ages_s: list[float] = field(default_factory=list)
    sent_s: float = 0.0
    first_s: float | None = None
    head: bytes = b""
    _latest: int = 0
    _tail: bytes = b""

    def hear(self, data: bytes) -> None:
        """Count the tokens that were not there before; a repeated text counts once."""
        now = time.monotonic()
        self.head = self.head or data[:1000]
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
        assert self.first_s is not None, f"no token came: {self.head!r}"
        return self.first_s - self.sent_s


async def send(url: str, body: Mapping[str, Any] | None = None) -> tuple[Heard, asyncio.Task[None]]:
    """Send a request, POST where it has a body. What is heard grows until the task ends, or is cancelled."""
    parts = urlsplit(url)
    content = b"" if body is None else json.dumps(body).encode()
    target = f"{parts.path}?{parts.query}" if parts.query else parts.path
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    heard = Heard(sent_s=time.monotonic())
    head = f"{'GET' if body is None else 'POST'} {target} HTTP/1.1\r\nHost: {parts.netloc}\r\n"
    head += "Content-Type: application/json\r\nConnection: close\r\n"
    writer.write(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)

    async def read() -> None:
        try:
            while data := await reader.read(65_536):
                heard.hear(data)
        finally:
            writer.close()

    return heard, asyncio.create_task(read())


async def post(url: str, body: Mapping[str, Any]) -> Heard:
    """Send one request and read its reply to the end; a status that is not 200 is an error."""
    heard, reading = await send(url, body)
    await asyncio.wait_for(reading, 120)
    if not heard.head.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(f"{url} answered {heard.head!r}")
    return heard


async def post_many(url: str, body: Mapping[str, Any], count: int, *, spread_s: float = 0.0) -> list[Heard]:
    """`count` requests at once, or over `spread_s`, so that their tokens do not come in step."""

    async def one(number: int) -> Heard:
        await asyncio.sleep(spread_s * number / count)
        return await post(url, body)

    return list(await asyncio.gather(*map(one, range(count))))
