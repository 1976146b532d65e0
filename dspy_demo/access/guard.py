"""The outermost layer of the app: every request meets it first, whatever route it is for.

It says who asks (``request.state.visitor``), turns away who may not, and opens the page's door: the owner's
one-time link, the guests' password. What a visitor may do inside is checked again where it is done.
"""

from __future__ import annotations

import logging
from typing import Any
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dspy_demo.access import door
from dspy_demo.access.gate import Asking, Gate
from dspy_demo.access.open_requests import OpenRequests
from dspy_demo.access.tokens import Role
from dspy_demo.errors import BodyTooLarge, DemoError, Forbidden, NotFound, TooManyAttempts, Unauthorized
from dspy_demo.logs import log_failure

log = logging.getLogger(__name__)

#: What a stranger may always ask: whether the server is up.
OPEN = frozenset({"/health"})
#: Figures of the whole app. The model server has the route too, and no guard: it has no guests.
OWNERS = frozenset({"/metrics"})
PAGE, LOGIN = "/", "/login"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
PASSWORD_MAX_BYTES = 4096

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
        self._open = OpenRequests(gate.settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # the page and the routes use no websocket
            await send({"type": "websocket.close", "code": 1008})
            return
        request = Request(scope, receive)
        try:
            response = await self._at_the_door(request) or await self._admit(request, send)
        except DemoError as error:
            response = _refusal(request, error)
        if response is not None:
            await response(scope, receive, send)

    async def _at_the_door(self, request: Request) -> Response | None:
        """What is answered here: a refusal by the kind of request, and the ways to get a session."""
        self._same_site(request)
        path = request.url.path
        if path == PAGE and "token" in request.query_params:
            if not self._gate.link.redeem(request.query_params["token"]):
                raise Forbidden(USED_LINK)
            return self._enter(request, "owner")
        if path == LOGIN and request.method == "POST":
            return await self._login(request)
        if path == LOGIN and request.method == "GET" and self._gate.asks_password:
            return RedirectResponse("./", 303)  # the form again: a reload after a wrong password
        return None

    async def _admit(self, request: Request, send: Send) -> Response | None:
        """Pass the request on, with its visitor; a page that is loaded begins a session."""
        scope, path = request.scope, request.url.path
        visitor = self._gate.visitor(asking(request))
        loads_page = path == PAGE and request.method in {"GET", "HEAD"}
        if visitor is None and loads_page and self._gate.asks_password:
            return door.password_page()
        session = ""
        held = self._gate.sessions.visitor(request.cookies.get(self._gate.cookie_name, ""))
        if loads_page and (visitor is None or held is None or held.role != visitor.role):
            # The owner too: they stay so when the app is shared later.
            session = self._gate.sessions.issue(visitor.role if visitor else "guest")
            visitor = self._gate.sessions.visitor(session)
        if visitor is None and path not in OPEN:
            raise Unauthorized(NO_SESSION)
        if path in OWNERS and visitor is not None and visitor.role != "owner":
            raise Forbidden()
        scope.setdefault("state", {})["visitor"] = visitor
        answer = _Answer(send, self._cookie(request, session) if session else "")
        try:
            with self._open.place(visitor):
                await self._app(scope, self._bounded(request), answer.send)
        except DemoError:
            raise
        except Exception as error:
            # Gradio (6.31) fails on an event that its page does not have; raised on, it cuts the connection.
            failure = DemoError.of(error)
            log_failure(log, "request failed", failure)
            return None if answer.begun else _refusal(request, failure)
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
        if urlsplit(origin).netloc != request.headers.get("host", ""):
            raise Forbidden(OTHER_SITE)

    async def _login(self, request: Request) -> Response:
        if not self._gate.asks_password:
            raise NotFound("There is no password here. Open the page.")
        if self._gate.attempts.exhausted:
            raise TooManyAttempts()
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > PASSWORD_MAX_BYTES:
                raise BodyTooLarge()
        fields = parse_qs(body.decode("utf-8", "replace"))
        if not self._gate.password_fits(fields.get("password", [""])[0]):
            return door.password_page(wrong=True)
        return self._enter(request, "guest")

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
        """`receive` that gives up on a body that is too long."""
        limit, left, receive = self._body_max_bytes, self._body_max_bytes, request.receive
        declared = request.headers.get("content-length", "")
        if declared.isdecimal() and int(declared[:20]) > limit:
            raise BodyTooLarge()

        async def bounded() -> Message:
            nonlocal left
            message = await receive()
            left -= len(message.get("body", b""))
            return message if left >= 0 else {"type": "http.disconnect"}

        return bounded


def asking(request: Request) -> Asking:
    """The request as the gate looks at it."""
    return Asking(dict(request.headers), request.cookies)


class _Answer:
    """An answer on its way: whether it has begun, and the cookie that it takes along."""

    def __init__(self, send: Send, cookie: str) -> None:
        self.begun = False
        self._send = send
        self._cookie = cookie

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.begun = True
            if self._cookie:
                MutableHeaders(scope=message).append("Set-Cookie", self._cookie)
        await self._send(message)


def _refusal(request: Request, error: DemoError) -> Response:
    """A page for who came by a link or a form, JSON for all others."""
    headers = {"Cache-Control": "no-store"}
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    if "text/html" in request.headers.get("accept", ""):
        return HTMLResponse(door.refused_html(error.public_message), error.http_status, headers)
    content: dict[str, Any] = {
        "status": "error",
        "code": error.code,
        "message": error.public_message,
        "retryable": error.retryable,
        "error_id": error.error_id,
    }
    if request.url.path.startswith("/v1/"):  # as OpenAI's clients read it
        kind = "invalid_request_error"
        content = {"error": {"message": error.public_message, "type": kind, "code": error.code}}
    return JSONResponse(content, error.http_status, headers)
