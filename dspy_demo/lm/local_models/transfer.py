"""Bringing the bytes: over as many connections as it takes, each going on where the one before broke."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import httpx

from dspy_demo.errors import DownloadFailed
from dspy_demo.lm.local_models.hub import check_status, host_of, wrong_file
from dspy_demo.lm.local_models.known import KnownModel
from dspy_demo.lm.local_models.progress import Progress, Speedometer

KEPT = "What has arrived is kept, and the next try goes on from there."
MAGIC = b"GGUF"
#: Seconds between two reports.
TICK_S = 0.25

Report = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait for what, in seconds, and how often to go on by itself after a break.

    A break counts only where nothing arrived since the one before.
    """

    probe_s: float = 3.0
    connect_s: float = 10.0
    silence_s: float = 30.0
    pause_s: float = 1.0
    breaks: int = 2

    @property
    def timeout(self) -> httpx.Timeout:
        return httpx.Timeout(self.silence_s, connect=self.connect_s)


@dataclass(slots=True)
class Transfer:
    """One file on its way from `url` into `part`; `report` is told every `TICK_S`, come what may."""

    client: httpx.AsyncClient
    url: str
    part: Path
    model: KnownModel
    report: Report
    patience: Patience
    received: int = 0

    async def run(self) -> None:
        """Make `part` complete.

        Raises:
            DownloadFailed: It stays incomplete; the sentence says why.
        """
        ticking = asyncio.create_task(self._tick())
        try:
            await self._fetch()
        finally:
            ticking.cancel()

    async def _tick(self) -> None:
        speed = Speedometer()
        while True:
            bytes_per_s = speed.read(self.received)
            self.report(Progress("downloading", self.received, self.model.size_bytes, bytes_per_s))
            await asyncio.sleep(TICK_S)

    async def _fetch(self) -> None:
        breaks = 0
        while (before := size_of(self.part)) < self.model.size_bytes:
            try:
                await self._receive(before)
            except httpx.HTTPError as error:
                breaks = breaks + 1 if size_of(self.part) == before else 0
                if breaks > self.patience.breaks or not isinstance(error, httpx.TransportError):
                    raise self._broken(error) from error
                await asyncio.sleep(self.patience.pause_s)

    async def _receive(self, start: int) -> None:
        """Append what one connection brings."""
        self.received = start
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
        async with self.client.stream("GET", self.url, headers=headers, follow_redirects=True) as reply:
            continues = _continues(reply, start)
            self._check_promise(reply, continues)
            self.received = start if continues else 0  # a server may ignore the range
            with self.part.open("ab" if continues else "wb", buffering=0) as file:
                async for piece in reply.aiter_raw():
                    self._check_piece(piece)
                    await _write(file, piece)
                    self.received += len(piece)
        if self.received < self.model.size_bytes:
            raise httpx.RemoteProtocolError("the server closed the connection before the end")

    def _check_piece(self, piece: bytes) -> None:
        fits = self.received + len(piece) <= self.model.size_bytes
        if not fits or (self.received == 0 and piece[:4] != MAGIC[: len(piece)]):
            raise wrong_file(self.url, self.model)

    def _check_promise(self, reply: httpx.Response, continues: bool) -> None:
        """The headers must promise the rest of this very file; what they leave out is no promise broken."""
        size = str(self.model.size_bytes)
        total = reply.headers.get("content-range", "").rpartition("/")[2]
        length = reply.headers.get("content-length", size)
        if reply.status_code == 416 or (
            reply.status_code == 206 and not (continues and total in {size, "*"})
        ):
            raise wrong_file(self.url, self.model)
        check_status(reply, self.model)
        if reply.status_code != 206 and length != size:
            raise wrong_file(self.url, self.model)

    def _broken(self, error: httpx.HTTPError) -> DownloadFailed:
        host = host_of(self.url)
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            what = f"{host}, or where it stores the file, cannot be reached any more"
        elif isinstance(error, httpx.TimeoutException):
            what = f"{host} has stopped sending"
        elif isinstance(error, httpx.TransportError):
            what = f"The connection to {host} broke"
        else:
            what = f"{host} does not lead to the file"
        percent = Progress("downloading", size_of(self.part), self.model.size_bytes).percent
        return DownloadFailed(f"{what}, at {percent} %. {KEPT}")


def size_of(path: Path) -> int:
    """The length of a file; 0 where there is none."""
    return path.stat().st_size if path.exists() else 0


def _continues(reply: httpx.Response, start: int) -> bool:
    promised = reply.headers.get("content-range", "")
    return reply.status_code == 206 and promised.startswith(f"bytes {start}-")


async def _write(file: BinaryIO, piece: bytes) -> None:
    """Write in a thread: a slow disk must not hold up the chats. A cancelled write is waited for."""
    writing = asyncio.ensure_future(asyncio.to_thread(_write_all, file, piece))
    try:
        await asyncio.shield(writing)
    except asyncio.CancelledError:
        await asyncio.wait({writing})
        raise


def _write_all(file: BinaryIO, piece: bytes) -> None:
    rest = memoryview(piece)
    while rest:
        rest = rest[file.write(rest) :]
