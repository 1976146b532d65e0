"""What of Gradio is open, to whom, and for which events.

Gradio serves files, takes uploads, fetches addresses for its visitors, runs functions of components and
keeps a log of its own. The page needs none of it, so all of Gradio's own routes are closed but those below,
which a browser was seen to ask for, and those that Gradio's Python client needs for a chat. A list of what is
open, rather than of what is closed: the next version of Gradio may bring routes that nobody here has read.

Gradio fails with a traceback in the log on an event that its page does not have, and gives a session to
whoever knows its hash. Both are looked at here, before it is asked.

Beside its routes, Gradio reads or downloads a file wherever the *value* of an event looks like one: see
`without_files`.
"""

from __future__ import annotations

import json
import logging
import re
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import QueryParams
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dspy_demo.errors import DemoError, Forbidden, InvalidInput, NotFound, TooManyOpen
from dspy_demo.events import GUEST, Visitor
from dspy_demo.logs import kinds
from dspy_demo.web.middleware import read_body, refusal

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
#: Sessions that are remembered. The oldest one without an open stream makes room.
MOST_SESSIONS = 10_000
#: Gradio's own have 11 and 36 characters.
HASH_MAX_CHARS = 64
#: Pages that one guest may keep alive.
MOST_HEARTBEATS = 20

OTHERS = "This page is another visitor's. Reload to get your own."
UNKNOWN = "This page is not known here any more. Reload it."
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


def without_files(value: dict[str, Any]) -> dict[str, Any]:
    """An object of an event's JSON, unless Gradio would take it for a file.

    Gradio downloads its ``path`` where that is an address, and copies the file where it is none, before any
    handler is asked (`gradio.processing_utils.async_move_files_to_cache`). No event of the page takes files.

    Raises:
        Forbidden: It would.
    """
    if "path" in value and "meta" in value:
        raise Forbidden("This page takes no files.")
    return value


def replaying(body: bytes, receive: Receive) -> Receive:
    """`receive` for whoever comes next, which begins with a body that was read already."""
    waiting = [body]

    async def replay() -> Message:
        if waiting:
            return {"type": "http.request", "body": waiting.pop(), "more_body": False}
        return await receive()

    return replay


@dataclass(slots=True)
class _Session:
    visitor: Visitor
    streams: int = 0
    has_heartbeat: bool = False


class PageSessions:
    """Whose each session of Gradio is, for the pages of all roles.

    A page that is loaded makes up a short name for itself, the session hash, and sends it with all it asks.
    Gradio gives whoever knows the name the events of that page, and it stands in addresses, so in the logs of
    proxies. Here it belongs to the visitor who used it first.
    """

    def __init__(self) -> None:
        self._sessions: OrderedDict[str, _Session] = OrderedDict()

    def claim(self, session_hash: str, visitor: Visitor) -> None:
        """A visitor uses a session, and begins it where it is new.

        Raises:
            Forbidden: It is another visitor's.
            InvalidInput: No page has such a hash.
            TooManyOpen: There are too many sessions.
        """
        if session_hash in self._sessions:
            self.check(session_hash, visitor)
            return
        if len(session_hash) > HASH_MAX_CHARS:
            raise InvalidInput("This is no session hash.")
        if len(self._sessions) >= MOST_SESSIONS:
            idle = next((name for name, session in self._sessions.items() if not session.streams), None)
            if idle is None:
                raise TooManyOpen()
            del self._sessions[idle]
        self._sessions[session_hash] = _Session(visitor)

    def check(self, session_hash: str, visitor: Visitor) -> _Session:
        """A visitor asks for a session that must have begun.

        Raises:
            Forbidden: It is another visitor's.
            NotFound: Nobody has begun it.
        """
        session = self._sessions.get(session_hash)
        if session is None:
            raise NotFound(UNKNOWN)
        if not _same(session.visitor, visitor):
            raise Forbidden(OTHERS)
        self._sessions.move_to_end(session_hash)
        return session

    @contextmanager
    def stream(self, session_hash: str, visitor: Visitor) -> Iterator[None]:
        """The events of a session, while they are sent. It is not forgotten meanwhile."""
        session = self.check(session_hash, visitor)
        session.streams += 1
        try:
            yield
        finally:
            session.streams -= 1

    @contextmanager
    def heartbeat(self, session_hash: str, visitor: Visitor) -> Iterator[None]:
        """The stream that keeps a page alive; a page opens it before all else. Gradio ends a session with it,
        so that one more is refused and an open one left alone.

        Raises:
            Forbidden: The session is another visitor's.
            TooManyOpen: It has one already, or its visitor has too many.
        """
        self.claim(session_hash, visitor)
        session = self._sessions[session_hash]
        # A page that was closed is noticed after up to 15 s, so that who reloads often seems to have many.
        alive = sum(one.has_heartbeat for one in self._sessions.values() if one.visitor == visitor)
        if session.has_heartbeat or (visitor.role == "guest" and alive >= MOST_HEARTBEATS):
            raise TooManyOpen("You have too many pages open. Close some, then reload this one.")
        session.has_heartbeat = True
        try:
            with self.stream(session_hash, visitor):
                yield
        finally:
            session.has_heartbeat = False


def _same(one: Visitor, other: Visitor) -> bool:
    """The owner is one person, with a session or by being at this machine."""
    return one == other or one.role == other.role == "owner"


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
            body = json.loads(raw or b"{}", object_hook=without_files)
        except (ValueError, RecursionError):
            body = None
        if not isinstance(body, dict):
            raise InvalidInput("The body is no JSON object.")
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
