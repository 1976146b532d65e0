"""A line between browser and app that a test can cut: open connections break, new ones are refused."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class CutLine:
    """Passes bytes between `url` and a port of this machine."""

    def __init__(self, port: int) -> None:
        self._port, self._own_port = port, 0
        self._writers: set[asyncio.StreamWriter] = set()

    async def mend(self) -> None:
        """Take connections, at the same address as before."""
        self._server = await asyncio.start_server(self._connect, "127.0.0.1", self._own_port)
        self._own_port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self._own_port}"

    async def cut(self) -> None:
        """Break every connection and take no more."""
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        app_reader, app_writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers |= {writer, app_writer}
        await asyncio.gather(_pass(reader, app_writer), _pass(app_reader, writer))


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    writer.close()


@asynccontextmanager
async def cut_line(port: int) -> AsyncIterator[CutLine]:
    line = CutLine(port)
    await line.mend()
    yield line
    await line.cut()
