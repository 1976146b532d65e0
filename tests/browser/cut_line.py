"""A line between browser and app that a test can cut: open connections break, new ones are refused."""

import asyncio
from contextlib import suppress


class CutLine:
    """Passes bytes between `url` and a port of this machine, once it is mended for the first time."""

    def __init__(self, port):
        self._port, self._own_port, self._writers = port, 0, set()

    async def mend(self):
        """Take connections, at the same address as before."""
        self._server = await asyncio.start_server(self._connect, "127.0.0.1", self._own_port)
        self._own_port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self._own_port}"

    async def cut(self):
        """Break every connection and take no more."""
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()

    async def _connect(self, reader, writer):
        app_reader, app_writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers |= {writer, app_writer}
        await asyncio.gather(_pass(reader, app_writer), _pass(app_reader, writer))


async def _pass(reader, writer):
    with suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    writer.close()
