"""The outermost layers over small apps: who is let in, and what goes out with every answer."""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from dspy_demo.settings import Settings
from dspy_demo.web.auth import Auth
from dspy_demo.web.headers import OTHERS
from dspy_demo.web.middleware import AuthMiddleware
from dspy_demo.web.server import protected
from tests.api.conftest import LiveServer

LOCAL, PUBLIC = "http://127.0.0.1:7860", "https://abc.gradio.live"


async def who(request: Request) -> Response:
    visitor = request.state.visitor
    return JSONResponse({"role": visitor and visitor.role, "name": visitor and visitor.name})


APP = Starlette(routes=[Route("/{path:path}", who, methods=["GET", "HEAD", "POST", "PUT"])])
MakeClient = Callable[..., httpx.AsyncClient]


@pytest.fixture
def auths() -> list[Auth]:
    return []


@pytest.fixture
def client(data_dir: Path, auths: list[Auth]) -> MakeClient:
    """A browser or a script of its own: ``client(PUBLIC, public=True)``; the same settings, the same app."""

    def make(base_url: str = LOCAL, auth: Auth | None = None, **values: Any) -> httpx.AsyncClient:
        auth = auth or Auth(Settings(data_dir=data_dir, **values), 7860)
        auths.append(auth)
        transport = httpx.ASGITransport(AuthMiddleware(APP, auth))
        return httpx.AsyncClient(transport=transport, base_url=base_url)

    return make


def cookie_of(reply: httpx.Response) -> str:
    return reply.headers.get("set-cookie", "")


async def test_the_owner_types_nothing_and_stays_the_owner_when_the_app_is_shared(
    client: MakeClient, auths: list[Auth]
) -> None:
    browser, told = client(), []
    auths[0].on_outside = lambda: told.append("outside")
    assert (await browser.post("/versions")).json()["role"] == "owner"
    assert cookie_of(await browser.get("/"))
    assert not cookie_of(await browser.get("/")) and not told  # it has one now
    # Codespaces, JupyterHub: nothing is public, and yet nobody there is at this machine.
    proxied = await client(auth=auths[0]).get("/", headers={"x-forwarded-host": "me.github.dev"})
    assert (proxied.json()["role"], told) == ("guest", ["outside"])
    auths[0].shared = True
    assert (await browser.post("/versions")).json()["role"] == "owner"
    assert (await client(auth=auths[0]).post("/versions")).status_code == 401


async def press(browser: httpx.AsyncClient, link: str, **headers: str) -> httpx.Response:
    """Open the owner's link and press the one button of its page."""
    page = await browser.get(link, headers=headers)
    if page.status_code != 200:
        return page
    token = re.search(r'name="token" type="hidden" value="([^"]+)"', page.text)
    assert token
    return await browser.post("/", data={"token": token[1]}, headers=headers)


async def test_the_owners_link(client: MakeClient, auths: list[Auth]) -> None:
    browser = client(PUBLIC, public=True)
    assert (await browser.get("/")).json()["role"] == "guest"
    link = auths[0].owner_link(PUBLIC)
    for method in ("GET", "HEAD"):  # the preview of a messenger does not use it
        seen = await client(PUBLIC, auth=auths[0]).request(method, link)
        assert (seen.status_code, cookie_of(seen), seen.headers["cache-control"]) == (200, "", "no-store")
    token, evil = {"token": auths[0].link_code}, {"origin": "https://evil.example"}
    foreign = await browser.post("/", data=token, headers=evil)  # another site cannot press the button
    assert (foreign.status_code, cookie_of(foreign)) == (403, "")
    printed: list[str] = []
    auths[0].on_link_used = lambda: printed.append(auths[0].owner_link(PUBLIC))
    reply = await press(browser, link)
    assert (reply.status_code, reply.headers["location"]) == (303, "./")
    assert (await browser.post("/versions")).json()["role"] == "owner"
    late = await press(client(PUBLIC, auth=auths[0]), link, accept="text/html")
    assert (late.status_code, cookie_of(late), "has been used" in late.text) == (403, "", True)
    assert (await press(client(PUBLIC, auth=auths[0]), printed[0])).status_code == 303


async def test_the_password_opens_the_page(client: MakeClient) -> None:
    guest = client(PUBLIC, public=True, guest_password="open <sesame>")
    form = await guest.get("/")
    assert (form.status_code, cookie_of(form), 'name="password"' in form.text) == (401, "", True)
    wrong = await guest.post("/login", data={"password": "open"})
    assert (wrong.status_code, "not the password" in wrong.text) == (403, True)
    reloaded = await guest.get("/login", headers={"accept": "text/html"})
    assert (reloaded.status_code, reloaded.headers["location"]) == (303, "./")
    assert (await guest.post("/predict")).status_code == 401
    assert (await guest.post("/login", data={"password": "open <sesame>"})).status_code == 303
    for reply in (await guest.get("/"), await guest.post("/predict")):
        assert reply.json()["role"] == "guest"


def test_guesses_that_end_together_are_counted() -> None:
    """All are waited for, then all bodies come: only 20 are looked at, and not the right one."""
    settings = Settings(public=True, guest_password="open sesame")
    guesses = [f"password=wrong-{number:03}" for number in range(59)]
    guesses.insert(50, "password=open+sesame")
    head = "POST /login HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: {}\r\n\r\n"
    with LiveServer(AuthMiddleware(APP, Auth(settings, 1))) as server, contextlib.ExitStack() as wave:
        waiting = []
        for guess in guesses:
            waiting.append(socket.create_connection(("127.0.0.1", server.port), timeout=20))
            wave.enter_context(waiting[-1]).sendall(head.format(len(guess)).encode())
        for connection in waiting:  # the server asks for the body
            assert connection.recv(65_536).startswith(b"HTTP/1.1 100 ")
        for connection, guess in zip(waiting, guesses, strict=True):
            connection.sendall(guess.encode())
        replies = [connection.recv(65_536).decode() for connection in waiting]
    statuses = [reply.split()[1] for reply in replies]
    assert (statuses.count("403"), statuses.count("303")) == (20, 0)
    assert not any("set-cookie" in reply.lower() for reply in replies)


@pytest.mark.parametrize("base_url", [LOCAL, PUBLIC])
async def test_another_site_cannot_act_for_a_visitor(client: MakeClient, base_url: str) -> None:
    browser = client(base_url, cors_origins="https://friend.example")
    await browser.get("/")
    for headers in (
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://[::1"},  # no address at all
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"},
    ):
        reply = await browser.post("/versions", headers=headers)
        assert (reply.status_code, reply.json()["code"]) == (403, "forbidden"), headers
    embedded = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "cors"}
    assert (await browser.get("/v1/models", headers=embedded)).status_code == 403
    followed = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert (await browser.get("/", headers=followed)).status_code == 200
    own = {"origin": base_url, "sec-fetch-site": "same-origin", "sec-fetch-mode": "cors"}
    named = {"origin": "https://friend.example", "sec-fetch-site": "cross-site"}
    for headers in (own, named):
        assert (await browser.post("/predict", headers=headers)).status_code == 200


@pytest.mark.parametrize(
    ("values", "url", "headers", "ending"),
    [
        ({}, LOCAL, {}, "Path=/; HttpOnly; SameSite=Lax"),
        ({"public": True}, PUBLIC, {}, "HttpOnly; SameSite=Lax; Secure"),
        ({"public": True}, "http://demo.example", {"x-forwarded-proto": "https"}, "SameSite=Lax; Secure"),
        ({"host": "0.0.0.0", "embed": True}, PUBLIC, {}, "SameSite=None; Secure; Partitioned"),
    ],
)
async def test_the_cookie_is_no_wider_than_needed(
    client: MakeClient, values: dict[str, Any], url: str, headers: dict[str, str], ending: str
) -> None:
    assert cookie_of(await client(url, **values).get("/", headers=headers)).endswith(ending)


PAGE = "<html><head><script>one()</script><script src='/a.js'></script></head><body>{}</body></html>"


def source(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


async def page(request: Request) -> Response:
    return HTMLResponse(PAGE.format(request.url.hostname * 100))


async def ticks(request: Request) -> Response:
    return StreamingResponse(iter(["data: 1\n\n", "data: 2\n\n"]), media_type="text/event-stream")


async def broken(request: Request) -> Response:
    return JSONResponse({"status": "error"}, 500)


PAGES = Starlette(routes=[Route("/", page), Route("/ticks", ticks), Route("/broken", broken)])


def browser_of(data_dir: Path, *, embed: bool = False) -> httpx.AsyncClient:
    auth = Auth(Settings(data_dir=data_dir, embed=embed), 1)
    app = protected(PAGES, auth, head="<script>two()</script>")
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost")


@pytest.mark.parametrize("path", ["/", "/ticks", "/broken", "/nothing"])
async def test_every_answer_has_the_headers_and_only_the_page_its_scripts(data_dir: Path, path: str) -> None:
    for embed, ancestors in ((False, "'self'"), (True, "'self' https:")):
        async with browser_of(data_dir, embed=embed) as http:
            headers = (await http.get(path)).headers
        assert set(OTHERS) <= set(headers)
        policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
        assert (policy["img-src"], policy["connect-src"]) == ("'self' data: blob:", "'self'")
        own = f" {source('one()')} {source('two()')}" if path == "/" else ""
        assert policy["script-src"] == f"'self' 'unsafe-eval'{own}"
        assert policy["frame-ancestors"] == ancestors


@pytest.mark.parametrize("accepted", ["gzip, br", "identity"])
async def test_the_page_is_whole_and_small(data_dir: Path, accepted: str) -> None:
    asking = {"Accept-Encoding": accepted}
    async with browser_of(data_dir) as http, http.stream("GET", "/", headers=asking) as response:
        raw = b"".join([part async for part in response.aiter_raw()])
    assert response.headers["content-length"] == str(len(raw))
    assert response.headers["vary"] == "Accept-Encoding"
    whole = PAGE.format("localhost" * 100).encode()
    assert (gzip.decompress(raw) if accepted.startswith("gzip") else raw) == whole
