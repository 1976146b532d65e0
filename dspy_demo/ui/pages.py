"""Two pages at one address: the owner's, and one for guests that has none of the owner's controls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import gradio as gr
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dspy_demo.events import GUEST
from dspy_demo.ui import theme
from dspy_demo.ui.components import asset
from dspy_demo.ui.gradio_bridge import events_of
from dspy_demo.web.gradio_routes import GradioRoutes, PageSessions


class Pages:
    """An ASGI app that shows each visitor the page of their role."""

    def __init__(self, owner: gr.Blocks, guest: gr.Blocks) -> None:
        sessions = PageSessions()
        self._apps: list[Starlette] = []
        self._open: dict[str, GradioRoutes] = {}
        for role, page in (("owner", owner), ("guest", guest)):
            app, (events, names) = _mounted(page), events_of(page)
            self._apps.append(app)
            self._open[role] = GradioRoutes(app, events=events, names=names, sessions=sessions)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        visitor = scope.get("state", {}).get("visitor") or GUEST
        await self._open[visitor.role](scope, receive, send)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Both pages' queues, which run in the server's event loop."""
        async with AsyncExitStack() as stack:
            for app in self._apps:
                await stack.enter_async_context(_lifespan(app))
            yield


def _mounted(page: gr.Blocks) -> Starlette:
    look = {"theme": theme.theme(), "css": asset("page.css") + asset("sections.css"), "head": theme.head()}
    off = dict.fromkeys(
        ("show_error", "run_history", "enable_monitoring", "ssr_mode", "pwa", "mcp_server"), False
    )
    # Gradio answers any origin where the host is public, unless the app around it has a CORS policy.
    around = Starlette(middleware=[Middleware(CORSMiddleware)])
    app: Starlette = gr.mount_gradio_app(
        around, page, path="/", footer_links=[], max_file_size=0, **look, **off
    )
    return app


@asynccontextmanager
async def _lifespan(app: ASGIApp) -> AsyncIterator[None]:
    """Start an app and shut it down by ASGI's lifespan messages, as a server does."""
    received, sent = asyncio.Queue[Message](), asyncio.Queue[Message]()
    scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
    running = asyncio.ensure_future(app(scope, received.get, sent.put))
    received.put_nowait({"type": "lifespan.startup"})
    if (await sent.get())["type"] == "lifespan.startup.failed":
        await running  # raises what failed
    try:
        yield
    finally:
        received.put_nowait({"type": "lifespan.shutdown"})
        await running
