"""What of Gradio is open, to whom, and for which events (gradio 6.31).

Gradio serves files, takes uploads, fetches addresses for its visitors, runs functions of components and
keeps a log of its own. The page needs none of it, so all of Gradio's own routes are closed but those below,
which a browser was seen to ask for, and those that Gradio's Python client needs for a chat. A list of what is
open, rather than of what is closed: the next version of Gradio may bring routes that nobody here has read.

Gradio fails with a traceback in the log on an event that its page does not have, and gives a session to
whoever knows its hash. Both are looked at here, before it is asked.

Beside its routes, Gradio reads or downloads a file wherever the *value* of an event looks like one: see
`names_a_file`.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from starlette.datastructures import QueryParams
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dspy_demo.errors import DemoError, Forbidden, InvalidInput, NotFound
from dspy_demo.events import GUEST, Visitor
from dspy_demo.logs import kinds
from dspy_demo.web.middleware import read_body, refusal
from dspy_demo.web.page_sessions import PageSessions

log = logging.getLogger(__name__)

API = "/gradio_api"

_OPEN_API = {
    # The page as it stays alive, starts and follows its events.
    "GET": r"/(heartbeat/[^/]+|queue/data|call/(v2/)?[^/]+/[^/]+|info/?|startup-events|app_id|theme\.css)",
    # Events. Gradio does not check who may send which: the handlers do.
    "POST": r"/(queue/join|run/[^/]+/?|call/(v2/)?[^/]+/?|cancel|reset/?)",
}
#: Longest body that begins an event: the page's chat comes back from the browser in one.
EVENT_MAX_BYTES = 8 * 1024 * 1024
#: Longest body that ends one: three short values.
CANCEL_MAX_BYTES = 64 * 1024
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


def replaying(body: bytes, receive: Receive) -> Receive:
    """`receive` for whoever comes next, which begins with a body that was read already."""
    waiting = [body]

    async def replay() -> Message:
        if waiting:
            return {"type": "http.request", "body": waiting.pop(), "more_body": False}
        return await receive()

    return replay


class GradioRoutes:
    """ASGI middleware around the page of a role, which refuses what that page has no use for.

    Args:
        app: Gradio's app for the page.
        events: The numbers of the page's events.
        names: The events that can be called by name.
        sessions: Shared by the pages of all roles.
    """

    def __init__(
        self, app: ASGIApp, *, events: Iterable[int], names: Iterable[str], sessions: PageSessions
    ) -> None:
        self._app = app
        self._events = frozenset(events)
        self._names = frozenset(names)
        self._sessions = sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        method, path = scope["method"], scope["path"]
        visitor = scope.get("state", {}).get("visitor") or GUEST
        try:
            if is_closed(method, path):
                raise NotFound("There is nothing here.")
            if method == "POST" and path.startswith(f"{API}/"):
                receive = await self._event(path.removeprefix(API), receive, visitor)
            with self._stream(scope, visitor):
                await self._app(scope, receive, send)
        except DemoError as error:
            await refusal(scope, error)(scope, receive, send)
        except ClientDisconnect:
            return
        except Exception as error:  # it has answered already, and our handlers' own failures never come here
            log.warning("Gradio could not answer a request", extra={"cause": kinds(error)})

    async def _event(self, path: str, receive: Receive, visitor: Visitor) -> Receive:
        """Read and judge the body of an event; what gives it to Gradio again."""
        ends_one = path.startswith(("/cancel", "/reset"))
        raw = await read_body(receive, CANCEL_MAX_BYTES if ends_one else EVENT_MAX_BYTES)
        try:
            body = json.loads(raw or b"{}")
        except (ValueError, RecursionError):
            body = None
        if not isinstance(body, dict):
            raise InvalidInput("The body is no JSON object.")
        if names_a_file(body):
            raise Forbidden("This page takes no files.")
        session_hash = body.get("session_hash")
        if not isinstance(session_hash, str | None):
            raise InvalidInput("The session hash is no text.")
        if path.startswith("/cancel"):
            self._sessions.check(session_hash or "", visitor)
        elif not ends_one:
            self._known(path, body)
            if session_hash is not None:
                self._sessions.claim(session_hash, visitor)
        # Written anew: what was judged is what Gradio reads, in whatever way it was sent.
        return replaying(json.dumps(body).encode(), receive)

    def _known(self, path: str, body: dict[str, Any]) -> None:
        """Only events of this page, by number or by name.

        Raises:
            NotFound: The page has no such event.
        """
        number = body.get("fn_index")
        if path.startswith("/call/") or number is None:
            known = path.rstrip("/").rpartition("/")[2] in self._names
        else:
            known = type(number) is int and number in self._events
        if not known:
            raise NotFound("This page has no such event. Reload it.")

    def _stream(self, scope: Scope, visitor: Visitor) -> AbstractContextManager[None]:
        """Holds the session of a stream that is asked for, while it lasts.

        The events of ``/call`` have a number of 128 random bits from Gradio, told to the caller alone.
        """
        path = scope["path"].removeprefix(API)
        if scope["method"] == "GET" and path == "/queue/data":
            asked = QueryParams(scope["query_string"]).get("session_hash", "")
            return self._sessions.stream(asked, visitor)
        if scope["method"] == "GET" and path.startswith("/heartbeat/"):
            return self._sessions.heartbeat(path.removeprefix("/heartbeat/"), visitor)
        return nullcontext()
