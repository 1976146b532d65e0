"""Two pages at one address: the owner's, and one for guests that has none of the owner's controls.

A guest's browser reaches only the guests' page, so that what only the owner may do is not even there to
be called. Each handler checks the role all the same.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import gradio as gr
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Mount
from starlette.types import Receive, Scope, Send

from dspy_demo.events import GUEST
from dspy_demo.ui.build import page_options
from dspy_demo.ui.gradio_bridge import log_failing_events
from dspy_demo.ui.sessions import keep_lean_sessions
from dspy_demo.web.gradio_routes import GradioRoutes
from dspy_demo.web.page_sessions import PageSessions

#: Gradio (6.31) keeps what each page that was ever loaded has changed, with its chat: of up to 10,000 pages,
#: closed ones too. What an old tab loses is only its typed server's address.
SESSIONS_KEPT = 200
#: Clicks that a page must be able to answer while all turns are drawn.
OTHER_EVENTS = 50


class Pages:
    """An ASGI app that shows each visitor the page of their role.

    Args:
        max_turns: How many turns each page must be able to draw at the same time.
    """

    def __init__(self, owner: gr.Blocks, guest: gr.Blocks, *, max_turns: int) -> None:
        log_failing_events()
        pages = {"owner": owner, "guest": guest}
        sessions = PageSessions()
        self._apps = {role: _mounted(page, max_turns) for role, page in pages.items()}
        self._open = {
            role: GradioRoutes(
                self._apps[role],
                events=page.fns,
                names=[fn.api_name for fn in page.fns.values() if isinstance(fn.api_name, str)],
                sessions=sessions,
            )
            for role, page in pages.items()
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        visitor = scope.get("state", {}).get("visitor") or GUEST
        await self._open[visitor.role](scope, receive, send)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Both pages' queues, which run in the server's event loop."""
        async with AsyncExitStack() as stack:
            for app in self._apps.values():
                await stack.enter_async_context(app.router.lifespan_context(app))
            yield


def _mounted(page: gr.Blocks, max_turns: int) -> Starlette:
    """A page without a server of its own.

    Gradio (6.31) answers any origin where the host is public, unless the app around it has its own CORS
    policy; this one allows nobody.
    """
    page.max_threads = max_turns
    # As `launch(max_threads=...)` does: the queue runs only so many events at a time, coroutines as well.
    page._queue.max_thread_count = max_turns + OTHER_EVENTS
    around = Starlette(middleware=[Middleware(CORSMiddleware)])
    mounted: Starlette = gr.mount_gradio_app(around, page, path="/", **page_options())
    keep_lean_sessions(
        next(r.app for r in mounted.routes if isinstance(r, Mount)), max(SESSIONS_KEPT, max_turns)
    )
    return mounted
