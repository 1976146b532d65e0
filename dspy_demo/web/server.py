"""The HTTP server of the app and of a model server, from the first request to a graceful end."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Awaitable, Callable, Mapping

import uvicorn
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.types import ASGIApp

from dspy_demo.events import TURN_ID_HEADER
from dspy_demo.processes import BACKLOG
from dspy_demo.settings import Settings
from dspy_demo.web.auth import Auth
from dspy_demo.web.headers import ResponseHeaders
from dspy_demo.web.middleware import AuthMiddleware
from dspy_demo.web.uvicorn_bridge import bounded_protocol


def protected(app: ASGIApp, auth: Auth, *, head: str = "") -> ASGIApp:
    """`app` with what stands around it, outermost first: compression, headers, CORS, auth."""
    settings = auth.settings
    app = AuthMiddleware(app, auth)
    if settings.cors_origins:
        app = CORSMiddleware(
            app,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],  # OpenAI's SDK sends a dozen of its own; no cookie goes along
            expose_headers=["Retry-After", "x-should-retry", TURN_ID_HEADER],
            allow_private_network=True,  # a site on the internet that calls an app on this machine
        )
    return GZipMiddleware(ResponseHeaders(app, head=head, embed=settings.embed), compresslevel=5)


def on_stop_signal(stop: Callable[[], object]) -> None:
    """Call `stop` when the process is asked to end. A further Ctrl-C ends it at once, whatever it does."""

    def asked(*_: object) -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        stop()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, asked)


async def serve_app(
    app: ASGIApp,
    listening: socket.socket,
    settings: Settings,
    *,
    on_ready: Callable[[], None],
    drain: Callable[[], Awaitable[object]],
    headers: Mapping[str, str] | None = None,
) -> None:
    """Serve an app until SIGINT or SIGTERM; `drain` lets running turns finish while it still answers."""
    config = uvicorn.Config(
        app,
        log_config=None,
        log_level="critical",  # it would report the streams that it ends as errors
        access_log=False,
        http=bounded_protocol(settings.max_connections),
        ws="none",
        proxy_headers=False,  # who asks is decided by `auth`, never by a header of addresses
        server_header=False,
        headers=list((headers or {}).items()),
        timeout_keep_alive=20,  # clients often have uvicorn's 5 s: a call in just that moment is reset
        backlog=32,  # also the connections taken at once: each has a descriptor before it is counted
        timeout_graceful_shutdown=1,  # for the ends of responses; those of open pages never end
    )
    server = uvicorn.Server(config)
    asked_to_stop, loop = asyncio.Event(), asyncio.get_running_loop()
    serving = asyncio.create_task(server.serve([listening]), name="web-server")
    while not server.started and not serving.done():  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    if not serving.done():
        # After uvicorn, whose own handlers would not let the turns finish.
        on_stop_signal(lambda: loop.is_closed() or loop.call_soon_threadsafe(asked_to_stop.set))
        listening.listen(BACKLOG)  # uvicorn has one number for this and for what is taken at once
        on_ready()
    stopping = asyncio.create_task(asked_to_stop.wait(), name="stop-signal")
    await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not serving.done():
        await drain()
        server.should_exit = True
    await serving
