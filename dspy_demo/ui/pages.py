"""Two pages at one address: the owner's, and one for guests that has none of the owner's controls."""

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
from dspy_demo.ui.components import asset
from dspy_demo.web.gradio_routes import GradioRoutes, PageSessions

SANS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Noto Sans", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "DejaVu Sans Mono", "monospace")
#: By the theme's names for them: light and dark.
COLOURS = {
    "background_fill_primary": ("#ffffff", "#161618"),
    "background_fill_secondary": ("#f6f6f7", "#1d1d20"),
    "body_text_color": ("#1f2023", "#ececee"),
    "body_text_color_subdued": ("#61636b", "#a5a7b0"),
    "border_color_primary": ("#e2e3e7", "#34353b"),
    "border_color_accent": ("#0f766e", "#2dd4bf"),
    "color_accent_soft": ("#eef3f2", "#26292b"),
    "link_text_color": ("#0f766e", "#5eead4"),
    "input_background_fill": ("#ffffff", "#232327"),
    "input_border_color": ("#d3d5da", "#3f4148"),
    "input_border_color_focus": ("#0f766e", "#2dd4bf"),
    "input_placeholder_color": ("#6b6d75", "#9a9ca5"),
    "button_primary_background_fill": ("#0f766e", "#2dd4bf"),
    "button_primary_background_fill_hover": ("#0b5f58", "#5eead4"),
    "button_primary_text_color": ("#ffffff", "#0b1f1d"),
    "button_secondary_background_fill_hover": ("#efeff1", "#2a2a2f"),
    "error_text_color": ("#b42318", "#fca5a5"),
    "block_background_fill": ("transparent", "transparent"),
    "button_secondary_background_fill": ("transparent", "transparent"),
}
SIZES = {
    "color_accent": "#0f766e",
    "block_label_text_color": "*body_text_color_subdued",
    "block_title_text_color": "*body_text_color",
    "block_title_text_weight": "500",
    "block_padding": "0px",
    "block_border_width": "0px",
    "input_border_width": "1px",
}


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
    look = {"theme": theme(), "css": asset("page.css") + asset("sections.css"), "head": head()}
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


def theme() -> gr.themes.Base:
    """Calm greys and one teal; nothing is fetched from the network."""
    values = SIZES | {name: colours[0] for name, colours in COLOURS.items()}
    values |= {f"{name}_dark": colours[1] for name, colours in COLOURS.items()}
    hues = {"primary_hue": gr.themes.colors.teal, "neutral_hue": gr.themes.colors.zinc}
    base = gr.themes.Base(font=SANS, font_mono=MONO, radius_size=gr.themes.sizes.radius_md, **hues)
    return base.set(**values)


def head() -> str:
    """Runs before the page is drawn: see page.js."""
    return f"<script>{asset('page.js')}</script>"
