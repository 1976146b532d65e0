"""The outermost layer of the app: every request meets it first, whatever route it is for.

It says who asks (``request.state.visitor``), turns away who may not, and opens the page's door: the owner's
one-time link, the guests' password. What a visitor may do inside is checked again where it is done.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import parse_qs

from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dspy_demo.errors import BodyTooLarge, DemoError, Forbidden, NotFound, TooManyOpen, Unauthorized
from dspy_demo.events import Visitor
from dspy_demo.logs import log_failure
from dspy_demo.web import door
from dspy_demo.web.auth import Asking, Gate
from dspy_demo.web.reading import read_body
from dspy_demo.web.tokens import Role

log = logging.getLogger(__name__)

#: What a stranger may always ask: whether the server is up, and whether it can answer.
OPEN = frozenset({"/health", "/ready"})
#: Figures of the whole app. The model server has the route too, and no guard: it has no guests.
OWNERS = frozenset({"/metrics"})
PAGE, LOGIN = "/", "/login"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
FORM_MAX_BYTES = 4096
#: What guests and strangers may hold open of the places for connections, so that the owner finds one.
GUESTS_SHARE = 0.5

OTHER_SITE = "Another site may not do this here. Open the app in a tab of its own."
NO_SESSION = "Open the page first, or send a token in the header “Authorization: Bearer …”."
USED_LINK = "This link has been used, or is old. The terminal in which the app runs shows a new one."


class Guard:
    """ASGI middleware around the whole app.

    Args:
        body_max_bytes: Longest body of a request to the page; the routes have a bound of their own.
    """

    def __init__(self, app: ASGIApp, gate: Gate, *, body_max_bytes: int) -> None:
        self._app = app
        self._gate = gate
        self._body_max_bytes = body_max_bytes
        self._guests_places = int(gate.settings.max_connections * GUESTS_SHARE)
        self._guests_open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # the page and the routes use no websocket
            await send({"type": "websocket.close", "code": 1008})
            return
        request = Request(scope, receive)
        visitor = self._gate.visitor(asking(request))
        try:
            with self._place(request, visitor):
                response = await self._at_the_door(request) or await self._admit(request, visitor, send)
        except DemoError as error:
            response = door.refusal(scope, error)
        except ClientDisconnect:
            return
        if response is not None:
            response.headers["Connection"] = "close"
            await response(scope, receive, send)

    @contextmanager
    def _place(self, request: Request, visitor: Visitor | None) -> Iterator[None]:
        """Room for one request that is not the owner's, until it is answered.

        Raises:
            TooManyOpen: There is none.
        """
        counts = request.url.path not in OPEN and not _is_owner(visitor)
        if counts and self._guests_open >= self._guests_places:
            raise TooManyOpen()
        self._guests_open += counts
        try:
            yield
        finally:
            self._guests_open -= counts

    async def _at_the_door(self, request: Request) -> Response | None:
        """What is answered here: a refusal by the kind of request, and the ways to get a session."""
        self._same_site(request)
        path = request.url.path
        if path == PAGE and "token" in request.query_params and request.method in SAFE_METHODS:
            if not self._gate.link.fits(request.query_params["token"]):
                raise Forbidden(USED_LINK)
            return door.owner_page(request.query_params["token"])
        if path == PAGE and request.method == "POST":
            if not self._gate.link.redeem(await self._field(request, "token")):
                raise Forbidden(USED_LINK)
            return self._enter(request, "owner")
        if path == LOGIN and request.method == "POST":
            return await self._login(request)
        if path == LOGIN and request.method == "GET" and self._gate.asks_password:
            return RedirectResponse("./", 303)  # the form again: a reload after a wrong password
        return None

    async def _admit(self, request: Request, visitor: Visitor | None, send: Send) -> Response | None:
        """Pass the request on, with its visitor; a page that is loaded begins a session."""
        scope, path = request.scope, request.url.path
        loads_page = path == PAGE and request.method in {"GET", "HEAD"}
        if visitor is None and loads_page:
            if not self._gate.public:
                self._gate.on_outside()
            if self._gate.asks_password:
                return door.password_page()
        session = ""
        held = self._gate.sessions.visitor(request.cookies.get(self._gate.cookie_name, ""))
        if loads_page and (visitor is None or held is None or held.role != visitor.role):
            # The owner too: they stay so when the app is shared later.
            session = self._gate.sessions.issue(visitor.role if visitor else "guest")
            visitor = self._gate.sessions.visitor(session)
        if visitor is None and path not in OPEN:
            raise Unauthorized(NO_SESSION)
        if path in OWNERS and visitor is not None and not _is_owner(visitor):
            raise Forbidden()
        scope.setdefault("state", {})["visitor"] = visitor
        cookie = self._cookie(request, session) if session else ""
        return await self._pass_on(request, _Answer(send, cookie, last=not _is_owner(visitor)))

    async def _pass_on(self, request: Request, answer: _Answer) -> Response | None:
        try:
            await self._app(request.scope, self._bounded(request), answer.send)
        except DemoError:
            if not answer.begun:
                raise
        except Exception as error:  # raised on, it would cut the connection
            failure = DemoError.of(error)
            log_failure(log, "request failed", failure)
            if not answer.begun:
                return door.refusal(request.scope, failure)
        return None

    def _same_site(self, request: Request) -> None:
        """Refuse what a page of another site makes a browser send here.

        A browser names the site in ``Origin`` with every state-changing request, and says with
        ``Sec-Fetch-Site`` where a request comes from; other clients send neither. A link from elsewhere
        to the page is no more than a link.
        """
        origin = request.headers.get("origin")
        if origin in self._gate.settings.cors_origins:
            return
        site = request.headers.get("sec-fetch-site", "none")
        navigates = request.headers.get("sec-fetch-mode") == "navigate" and request.method == "GET"
        if site == "cross-site" and not navigates:
            raise Forbidden(OTHER_SITE)
        if request.method in SAFE_METHODS or origin is None:
            return
        if origin.partition("://")[2] != request.headers.get("host", ""):
            raise Forbidden(OTHER_SITE)

    async def _login(self, request: Request) -> Response:
        if not self._gate.asks_password:
            raise NotFound("There is no password here. Open the page.")
        if not self._gate.password_fits(await self._field(request, "password")):
            return door.password_page(wrong=True)
        return self._enter(request, "guest")

    async def _field(self, request: Request, name: str) -> str:
        """A field of a form that is posted."""
        body = await read_body(request.receive, FORM_MAX_BYTES)
        return parse_qs(body.decode("utf-8", "replace")).get(name, [""])[0]

    def _enter(self, request: Request, role: Role) -> Response:
        """Into the page, with a session; the link's token leaves the address bar."""
        response = RedirectResponse("./", 303)
        response.headers["Set-Cookie"] = self._cookie(request, self._gate.sessions.issue(role))
        response.headers["Cache-Control"] = "no-store"
        return response

    def _cookie(self, request: Request, session: str) -> str:
        """``Secure`` under https, also behind a tunnel or proxy. Inside another site's frame a browser sends
        only ``SameSite=None`` cookies, which it wants secure and takes apart by that site.
        """
        name, embed = self._gate.cookie_name, self._gate.settings.embed
        forwarded = request.headers.get("x-forwarded-proto", "").partition(",")[0].strip()
        secure = embed or "https" in {request.url.scheme, forwarded}
        parts = [f"{name}={session}", "Path=/", "HttpOnly", f"SameSite={'None' if embed else 'Lax'}"]
        return "; ".join([*parts, *(["Secure"] if secure else []), *(["Partitioned"] if embed else [])])

    def _bounded(self, request: Request) -> Receive:
        """`receive` that refuses a body which is too long.

        Raises:
            BodyTooLarge: By its declared length already.
        """
        left, receive = self._body_max_bytes, request.receive
        declared = request.headers.get("content-length", "")
        if declared.isdecimal() and int(declared[:20]) > left:
            raise BodyTooLarge()

        async def bounded() -> Message:
            nonlocal left
            message = await receive()
            left -= len(message.get("body", b""))
            if left < 0:
                raise BodyTooLarge()
            return message

        return bounded


def _is_owner(visitor: Visitor | None) -> bool:
    return visitor is not None and visitor.role == "owner"


def asking(request: Request) -> Asking:
    """The request as the gate looks at it."""
    return Asking(dict(request.headers), request.cookies)


class _Answer:
    """An answer on its way: whether it has begun, and what it takes along.

    Args:
        cookie: The session that it begins.
        last: Whether the connection ends with it. Only the owner's are kept for a next request, so that what
            others hold open is a request, of which there is a bound, and never a line that is silent.
    """

    def __init__(self, send: Send, cookie: str, *, last: bool) -> None:
        self.begun = False
        self._send = send
        self._cookie = cookie
        self._last = last

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.begun = True
            headers = MutableHeaders(scope=message)
            if self._cookie:
                headers.append("Set-Cookie", self._cookie)
            if self._last:
                headers["Connection"] = "close"
        await self._send(message)
