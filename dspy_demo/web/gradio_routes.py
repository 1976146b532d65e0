"""What of Gradio is open, to whom, and for which events.

Gradio serves files, takes uploads, fetches addresses, gives a session to whoever knows its hash, and reads a
file wherever the value of an event looks like one.
"""

from __future__ import annotations

import json
import logging
import re
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dspy_demo.errors import DemoError, Forbidden, InvalidInput, NotFound, TooManyOpen
from dspy_demo.events import GUEST, Visitor
from dspy_demo.logs import kinds

log = logging.getLogger(__name__)

API = "/gradio_api"
_OPEN = {
    "GET": r"/(heartbeat/[^/]+|queue/data|call/(v2/)?[^/]+/[^/]+|info/?|startup-events|app_id|theme\.css)",
    # Gradio does not check who may send which event: the handlers do.
    "POST": r"/(queue/join|run/[^/]+/?|call/(v2/)?[^/]+/?|cancel|reset/?)",
}
#: Gradio's routes beside its API that the page does not use; under /v1 the answer is in OpenAI's form.
_CLOSED = re.compile(rf"({API}|/v1|/login|/logout|/monitoring|/svelte|/pwa_icon)(/.*)?")
#: Sessions that are remembered; the oldest one without an open stream makes room.
MOST_SESSIONS = 10_000
#: Streams that one guest may have open: a page keeps one, and one more while an event runs.
MOST_STREAMS = 30


def is_closed(method: str, path: str) -> bool:
    """Whether a request is to a part of Gradio that this app keeps closed."""
    if path.startswith(f"{API}/") and (allowed := _OPEN.get("GET" if method == "HEAD" else method)):
        return re.fullmatch(allowed, path.removeprefix(API)) is None
    return _CLOSED.fullmatch(path) is not None


class PageSessions:
    """Whose each session is: a page makes up its hash, no secret, and it belongs to who used it first."""

    def __init__(self) -> None:
        self._visitors: OrderedDict[str, Visitor] = OrderedDict()
        self._streams = Counter[str]()  # that are open, by session

    def check(self, session_hash: str, visitor: Visitor) -> None:
        """`NotFound` for a session that has not begun, `Forbidden` for another visitor's."""
        whose = self._visitors.get(session_hash)
        if whose is None:
            raise NotFound("This page is not known here any more. Reload it.")
        if whose != visitor and not whose.role == visitor.role == "owner":
            raise Forbidden("This page is another visitor's. Reload to get your own.")
        self._visitors.move_to_end(session_hash)

    def claim(self, session_hash: str, visitor: Visitor) -> None:
        """A visitor uses a session, and begins it where it is new."""
        if len(session_hash) > 64:  # Gradio's own have 11 and 36 characters
            raise InvalidInput("This is no session hash.")
        if session_hash not in self._visitors:
            if len(self._visitors) >= MOST_SESSIONS:
                idle = next((session for session in self._visitors if not self._streams[session]), "")
                self._visitors.pop(idle, None)
            self._visitors[session_hash] = visitor
        self.check(session_hash, visitor)

    @contextmanager
    def stream(self, session_hash: str, visitor: Visitor) -> Iterator[None]:
        """An open stream of a session; a browser that tries again may have two of a kind for a while."""
        self.check(session_hash, visitor)
        theirs = [self._streams[session] for session, whose in self._visitors.items() if whose == visitor]
        if visitor.role == "guest" and sum(theirs) >= MOST_STREAMS:
            raise TooManyOpen("You have too many pages open. Close some, then reload this one.")
        self._streams[session_hash] += 1
        try:
            yield
        finally:
            self._streams[session_hash] -= 1
            self._streams = +self._streams  # only those that have some


class GradioRoutes:
    """ASGI middleware around a role's page, which has these events and names, and refuses all others."""

    def __init__(
        self, app: ASGIApp, *, events: Iterable[int], names: Iterable[str], sessions: PageSessions
    ) -> None:
        self._app, self._sessions = app, sessions
        self._events, self._names = frozenset(events), frozenset(names)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request, path = Request(scope, receive), scope["path"]
        visitor = scope.get("state", {}).get("visitor") or GUEST
        if is_closed(request.method, path):
            raise NotFound()
        opened: AbstractContextManager[None] = nullcontext()
        try:
            if path == f"{API}/queue/data":
                opened = self._sessions.stream(request.query_params.get("session_hash", ""), visitor)
            elif path.startswith(f"{API}/heartbeat/"):  # a page opens it before all else
                session_hash = path.removeprefix(f"{API}/heartbeat/")
                self._sessions.claim(session_hash, visitor)
                opened = self._sessions.stream(session_hash, visitor)
            elif request.method == "POST" and path.startswith(f"{API}/"):
                receive = await self._event(path.removeprefix(API), request, visitor)
            with opened:
                await self._app(scope, receive, send)
        except (DemoError, HTTPException):
            raise
        except Exception as error:  # Gradio has answered already
            if not isinstance(error, ClientDisconnect):
                log.warning("Gradio could not answer a request", extra={"cause": kinds(error)})

    async def _event(self, path: str, request: Request, visitor: Visitor) -> Receive:
        """Read and judge the body of an event; what gives it to Gradio."""
        try:
            body = json.loads(await request.body() or b"{}", object_hook=_without_files)
        except (ValueError, RecursionError):
            body = None
        if not isinstance(body, dict) or not isinstance(body.get("session_hash"), str | None):
            raise InvalidInput("The body is no event.")
        session_hash = body.get("session_hash")
        if path == "/cancel":
            self._sessions.check(session_hash or "", visitor)
        elif not path.startswith("/reset"):
            self._check_event(path, body.get("fn_index"))
            if session_hash is not None:
                self._sessions.claim(session_hash, visitor)
        # Written anew: what was judged is what Gradio reads, in whatever encoding it was sent.
        waiting: list[Message] = [{"type": "http.request", "body": json.dumps(body).encode()}]

        async def replay() -> Message:
            return waiting.pop() if waiting else await request.receive()

        return replay

    def _check_event(self, path: str, number: Any) -> None:
        """Only events of this page, by number or by name: Gradio fails on others with a traceback."""
        known = type(number) is int and number in self._events
        if path.startswith("/call/") or number is None:
            known = path.rstrip("/").rpartition("/")[2] in self._names
        if not known:
            raise NotFound("This page has no such event. Reload it.")


def _without_files(value: dict[str, Any]) -> dict[str, Any]:
    if "path" in value and "meta" in value:  # Gradio would take it for a file
        raise Forbidden("This page takes no files.")
    return value
