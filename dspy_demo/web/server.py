"""The process's one HTTP server, from the first request to a graceful end."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator

import uvicorn
from starlette.types import ASGIApp

from dspy_demo.processes import BACKLOG
from dspy_demo.web.connection import IDLE_S

#: After the running turns have ended: for responses that are being written. Gradio's streams to open
#: pages never end by themselves.
LAST_WORDS_S = 1
#: Connections that are taken at a time, of those that wait in the kernel: asyncio gives each of them a
#: descriptor up to four turns of its loop before the protocol can count it.
TAKEN_AT_ONCE = 32


def on_stop_signal(stop: Callable[[], object]) -> None:
    """Call `stop` when the process is asked to end. A further Ctrl-C ends it at once, whatever it does."""

    def asked(*_: object) -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        stop()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, asked)


class WebServer:
    """Serves one ASGI app in this thread until SIGINT or SIGTERM.

    Args:
        protocol: What speaks HTTP on each connection.
        on_ready: Called once, when it answers.
        drain: Awaited at the end, while the server still answers: lets running turns finish.
    """

    def __init__(
        self,
        app: ASGIApp,
        listening: socket.socket,
        *,
        protocol: type[asyncio.Protocol],
        on_ready: Callable[[], None],
        drain: Callable[[], Awaitable[object]],
    ) -> None:
        config = uvicorn.Config(
            app,
            log_config=None,
            log_level="critical",  # it would report the streams that it ends as errors
            access_log=False,
            http=protocol,
            ws="none",
            proxy_headers=False,  # who asks is decided by `access`, never by a header of addresses
            server_header=False,
            timeout_keep_alive=IDLE_S,
            backlog=TAKEN_AT_ONCE,
            timeout_graceful_shutdown=LAST_WORDS_S,
        )
        self._server = _Server(config, on_ready)
        self._listening = listening
        self._drain = drain

    def run(self) -> None:
        asyncio.run(self._run())

    async def _run(self) -> None:
        asked_to_stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        on_stop_signal(lambda: loop.is_closed() or loop.call_soon_threadsafe(asked_to_stop.set))
        serving = asyncio.create_task(self._server.serve([self._listening]), name="web-server")
        stopping = asyncio.create_task(asked_to_stop.wait(), name="stop-signal")
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not serving.done():
            await self._drain()
            self._server.should_exit = True
        await serving


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listening in sockets or ():  # uvicorn has one number for both
            listening.listen(BACKLOG)
        self._on_ready()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are `WebServer`'s: uvicorn (0.54) would raise them again after a graceful end."""
        yield
