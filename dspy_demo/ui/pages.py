"""Two pages at one address: the owner's, and one for guests that has none of the owner's controls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import gradio as gr
import httpx
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dspy_demo.events import GUEST
from dspy_demo.ui import theme
from dspy_demo.ui.components import asset
from dspy_demo.web.gradio_routes import GradioRoutes, PageSessions


class Pages:
    """An ASGI app that shows each visitor the page of their role, while it is `running`."""

    def __init__(self, owner: gr.Blocks, guest: gr.Blocks) -> None:
        self._apps = {"owner": _mounted(owner), "guest": _mounted(guest)}
        self._open: dict[str, GradioRoutes] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        visitor = scope.get("state", {}).get("visitor") or GUEST
        await self._open[visitor.role](scope, receive, send)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Both pages' queues, which run in the server's event loop."""
        sessions = PageSessions()
        async with AsyncExitStack() as stack:
            for role, app in self._apps.items():
                await stack.enter_async_context(_lifespan(app))
                self._open[role] = GradioRoutes(app, **await _events_of(app), sessions=sessions)
            yield


def _mounted(page: gr.Blocks) -> Starlette:
    look = {"theme": theme.theme(), "css": asset("page.css") + asset("sections.css"), "head": theme.head()}
    unused = ("show_error", "run_history", "enable_monitoring", "ssr_mode", "pwa", "mcp_server")
    options: dict[str, Any] = look | dict.fromkeys(unused, False)
    # Gradio answers any origin where the host is public, unless the app around it has a CORS policy.
    around = Starlette(middleware=[Middleware(CORSMiddleware)])
    app: Starlette = gr.mount_gradio_app(around, page, path="/", footer_links=[], max_file_size=0, **options)
    return app


async def _events_of(app: ASGIApp) -> dict[str, list[Any]]:
    """A page's events, as it tells them to every browser: their numbers, and their names for the API."""
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://page") as client:
        events = (await client.get("/config")).json()["dependencies"]
    return {"events": [event["id"] for event in events], "names": [event["api_name"] for event in events]}


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
