"""What of Gradio the page does not use, and what therefore nobody may ask for (gradio 6.31).

Gradio serves files, takes uploads, fetches addresses for its visitors, runs functions of components and
keeps a log of its own. The page needs none of it, so all of Gradio's own routes are closed but those below,
which a browser was seen to ask for, and those that Gradio's Python client needs for a chat. A list of what is
open, rather than of what is closed: the next version of Gradio may bring routes that nobody here has read.

Beside its routes, Gradio reads or downloads a file wherever the *value* of an event looks like one: see
`names_a_file`.
"""

from __future__ import annotations

import json
import re
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

API = "/gradio_api"

_OPEN_API = {
    # The page as it stays alive, starts, follows its events, and looks whether the app is back: the number at
    # app_id only tells one start of the app from the next.
    "GET": r"/(app_id|heartbeat/[^/]+|queue/data|call/(v2/)?[^/]+/[^/]+|info/?|startup-events|theme\.css)",
    # Events. Gradio does not check who may send which: the handlers do.
    "POST": r"/(queue/join|run/[^/]+/?|call/(v2/)?[^/]+/?|cancel|reset/?)",
}
#: Gradio's routes beside its API that the page does not use.
_CLOSED = re.compile(rf"({API}|/login|/logout|/monitoring|/svelte|/pwa_icon)(/.*)?")


def is_closed(method: str, path: str) -> bool:
    """Whether a request is to a part of Gradio that this app keeps closed.

    Args:
        path: As ASGI gives it: decoded, without the query. A path that is no route at all is not closed;
            it is answered with a 404 anyway.
    """
    method = "GET" if method == "HEAD" else method
    if path.startswith(f"{API}/") and (allowed := _OPEN_API.get(method)):
        return re.fullmatch(allowed, path.removeprefix(API)) is None
    return _CLOSED.fullmatch(path) is not None


def takes_an_event(method: str, path: str) -> bool:
    """Whether the body of a request holds values for an event."""
    return method == "POST" and path.startswith(f"{API}/")


def names_a_file(value: Any) -> bool:
    """Whether a value of an event holds, at any depth, what Gradio takes for a file.

    Gradio downloads its ``path`` where that is an address, and copies the file where it is none, before any
    handler is asked (`gradio.processing_utils.async_move_files_to_cache`). No event of the page takes files.
    """
    waiting = [value]
    while waiting:  # not recursive: a body may be nested as deep as JSON's reader allows
        found = waiting.pop()
        if isinstance(found, dict):
            if "path" in found and "meta" in found:
                return True
            waiting += found.values()
        elif isinstance(found, list):
            waiting += found
    return False


class ClosedRoutes:
    """ASGI middleware that refuses what the functions above name. Bodies are bounded before it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif is_closed(scope["method"], scope["path"]):
            await _refuse(404, "There is nothing here.")(scope, receive, send)
        elif takes_an_event(scope["method"], scope["path"]):
            await self._event(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _event(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await _whole_body(receive)
        if body is None:
            return  # the client has gone
        try:
            refused = names_a_file(json.loads(body)) if body else False
        except (ValueError, RecursionError):
            await _refuse(400, "The body is not JSON.")(scope, receive, send)
            return
        if refused:
            await _refuse(403, "This page takes no files.")(scope, receive, send)
            return
        await self._app(scope, _replaying(body, receive), send)


async def _whole_body(receive: Receive) -> bytes | None:
    parts: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


def _replaying(body: bytes, receive: Receive) -> Receive:
    waiting = [body]

    async def replay() -> Message:
        if waiting:
            return {"type": "http.request", "body": waiting.pop(), "more_body": False}
        return await receive()

    return replay


def _refuse(status: int, message: str) -> JSONResponse:
    return JSONResponse({"status": "error", "code": "closed", "message": message}, status)
