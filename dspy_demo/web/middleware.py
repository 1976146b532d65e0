"""What every request meets before its route: who asks, whether they may, the ways to a session."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qs

from pydantic import SecretStr
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dspy_demo.errors import BodyTooLarge, DemoError, Forbidden, SettingsError, TooManyOpen, Unauthorized
from dspy_demo.events import Visitor, error_body, failed_from
from dspy_demo.logs import log_failure
from dspy_demo.settings import ENV_PREFIX
from dspy_demo.templates import draw
from dspy_demo.web.auth import Auth, Role, bearer, host_name, is_loopback_name, is_owner, same

log = logging.getLogger(__name__)

#: Longest body of a request: a chat with pictures comes along whole with each question.
BODY_MAX_BYTES = 8 * 1024 * 1024
BODY_WAIT_S = 1.0  # for the first part of a refused request's body
OPEN = frozenset({"/health", "/ready"})  # what a stranger may ask
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
NO_STORE = {"Cache-Control": "no-store"}

USED_LINK = "This link has been used, or is old. The terminal in which the app runs shows a new one."
NOBODY_NAMED = (
    f"Beyond this machine, set --allow-host NAME or a token for clients in {ENV_PREFIX}OWNER_TOKEN."
)


class AuthMiddleware:
    """ASGI middleware around the whole app: it sets ``request.state.visitor`` or refuses."""

    def __init__(self, app: ASGIApp, auth: Auth) -> None:
        self._app, self._auth = app, auth
        self._guests_open = 0  # requests that are not the owner's

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        visitor = self._auth.visitor(request.headers, request.cookies)
        counts = scope["path"] not in OPEN and not is_owner(visitor)
        self._guests_open += counts
        try:
            if counts and self._guests_open > self._auth.settings.max_connections // 2:
                raise TooManyOpen()  # the other half is left to the owner
            self._check_site(request)
            check_length(request.headers)
            response = await self._session_page(request) or await self._admit(request, visitor, send)
        except DemoError as error:
            response = refusal(scope, error)
        except ClientDisconnect:
            return
        finally:
            self._guests_open -= counts
        if response is not None:
            await _answer_and_close(request, response, send)

    def _check_site(self, request: Request) -> None:
        """Refuse what a page of another site makes a browser send here; a link may be followed."""
        headers, origin = request.headers, request.headers.get("origin")
        navigates = headers.get("sec-fetch-mode") == "navigate" and request.method == "GET"
        foreign = headers.get("sec-fetch-site") == "cross-site" and not navigates
        if origin is not None and request.method not in SAFE_METHODS:
            foreign = foreign or origin.partition("://")[2] != headers.get("host", "")
        if foreign and origin not in self._auth.settings.cors_origins:
            raise Forbidden("Another site may not do this here. Open the app in a tab of its own.")

    async def _session_page(self, request: Request) -> Response | None:
        """The owner's link, with a button since a messenger's preview presses none; and the password."""
        auth, path, method = self._auth, request.url.path, request.method
        code = request.query_params.get("token")
        if path == "/" and code is not None and method in SAFE_METHODS:
            if not same(code, auth.link_code):
                raise Forbidden(USED_LINK)
            return _page(200, code=code)
        if path == "/" and method == "POST":
            if not auth.use_link(await _field(request, "token")):
                raise Forbidden(USED_LINK)
            return self._enter(request, "owner")
        if path != "/login" or auth.settings.guest_password is None:
            return None
        if method != "POST":
            return RedirectResponse("./", 303)  # the form again: a reload after a wrong password
        if not auth.password_fits(await _field(request, "password")):
            return _page(403, password=True, sentence="This is not the password. Ask who shared the link.")
        return self._enter(request, "guest")

    async def _admit(self, request: Request, visitor: Visitor | None, send: Send) -> Response | None:
        """Pass the request on, with its visitor; a page that is loaded begins a session."""
        auth, path = self._auth, request.url.path
        loads_page = path == "/" and request.method in {"GET", "HEAD"}
        if visitor is None and loads_page:
            auth.on_outside()
            if auth.settings.guest_password is not None:
                return _page(401, password=True)
        cookie, held, role = "", auth.session(request.cookies), visitor.role if visitor else "guest"
        if loads_page and (held is None or held.role != role):  # the owner too, who may share the app later
            session = auth.new_session(role)
            visitor = auth.session({auth.cookie_name: session})
            cookie = self._cookie(request, session)
        if visitor is None and path not in OPEN:
            raise Unauthorized("Open the page first, or send a token: “Authorization: Bearer …”.")
        request.scope.setdefault("state", {})["visitor"] = visitor

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                if cookie:
                    headers.append("Set-Cookie", cookie)
                # Only the owner's connections are kept: what others hold open is a request, which is counted.
                if not is_owner(visitor):
                    headers["Connection"] = "close"
            await send(message)

        try:
            await self._app(request.scope, request.receive, answer)
        except Exception as error:  # the app has answered, and raises it once more
            log_failure(log, "request failed", DemoError.of(error))
        return None

    def _enter(self, request: Request, role: Role) -> Response:
        cookie = self._cookie(request, self._auth.new_session(role))
        return RedirectResponse("./", 303, {"Set-Cookie": cookie} | NO_STORE)

    def _cookie(self, request: Request, session: str) -> str:
        """``Secure`` under https, also behind a proxy. Another site's frame needs ``SameSite=None``."""
        cookie = f"{self._auth.cookie_name}={session}; Path=/; HttpOnly; SameSite="
        if self._auth.settings.embed:
            return f"{cookie}None; Secure; Partitioned"
        forwarded = request.headers.get("x-forwarded-proto", "").partition(",")[0].strip()
        return cookie + ("Lax; Secure" if "https" in {request.url.scheme, forwarded} else "Lax")


class ModelServerMiddleware:
    """ASGI middleware around a model server, which has no sessions: what counts is the name it is asked by.

    A page of another site can point its own name at this machine (DNS rebinding), but its browser says it.
    Beyond loopback a request brings the token, where there is one, instead of a name unless some are given.
    """

    def __init__(
        self, app: ASGIApp, *, host: str, allowed: Collection[str] = (), token: SecretStr | None = None
    ) -> None:
        address = f"[{host}]" if ":" in host else host
        beyond = not is_loopback_name(address)
        if beyond and not allowed and token is None:
            raise SettingsError(NOBODY_NAMED)
        self._app = app
        self._names = {host_name(name) for name in (*allowed, address)}
        self._token = token if beyond else None
        self._any_name = self._token is not None and not allowed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in OPEN | {"/ping"}:
            try:
                self._check(Headers(scope=scope))
            except DemoError as error:
                log_failure(log, "request refused", error, route=scope["path"])
                await _answer_and_close(Request(scope, receive), refusal(scope, error), send)
                return
        await self._app(scope, receive, send)

    def _check(self, headers: Headers) -> None:
        host, origin = headers.get("host", "").lower(), headers.get("origin")
        if origin is not None and origin.lower() not in {f"http://{host}", f"https://{host}"}:
            raise Forbidden("A page of another site may not ask the model server.")
        if self._token is not None and not same(bearer(headers), self._token):
            raise Unauthorized("Send the model server's token: “Authorization: Bearer …”.")
        if not (self._any_name or is_loopback_name(host) or host_name(host) in self._names):
            raise Forbidden("The model server is not asked by this name. Allow it with --allow-host NAME.")
        check_length(headers)


def check_length(headers: Headers) -> None:
    """Refuse a body by its declared length; Starlette would, too, but not in our form."""
    declared = headers.get("content-length", "")
    if declared.isdecimal() and int(declared[:20]) > BODY_MAX_BYTES:
        raise BodyTooLarge()


def refusal(scope: Scope, error: DemoError) -> Response:
    """A page for who came by a link or a form, JSON for all others."""
    headers = NO_STORE | ({"WWW-Authenticate": "Bearer"} if isinstance(error, Unauthorized) else {})
    if "text/html" in Headers(scope=scope).get("accept", ""):
        return _page(error.http_status, headers, sentence=error.public_message)
    return JSONResponse(error_body(failed_from(error)), error.http_status, headers)


async def _answer_and_close(request: Request, response: Response, send: Send) -> None:
    """Answer after the first part of the body: a connection closed over unread bytes is reset, unanswered."""
    response.headers["Connection"] = "close"
    with suppress(TimeoutError, RuntimeError, ClientDisconnect):
        async with asyncio.timeout(BODY_WAIT_S):
            await anext(request.stream(), None)
    await response(request.scope, request.receive, send)


def _page(status: int, headers: dict[str, str] = NO_STORE, **values: Any) -> Response:
    shown = {"code": "", "password": False, "sentence": ""} | values
    return HTMLResponse(draw("dspy_demo.web", "before_the_page.html", **shown), status, headers)


async def _field(request: Request, name: str) -> str:
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > 4096:
            raise BodyTooLarge()
    return parse_qs(body.decode("utf-8", "replace")).get(name, [""])[0]
