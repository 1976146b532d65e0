"""The outermost layers over small apps: who is let in, and what goes out with every answer."""

import base64
import contextlib
import gzip
import hashlib
import re
import socket

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import HTMLResponse, JSONResponse, StreamingResponse
from starlette.routing import Route

from dspy_demo.settings import Settings
from dspy_demo.web.auth import Auth
from dspy_demo.web.headers import OTHERS
from dspy_demo.web.middleware import AuthMiddleware
from dspy_demo.web.server import protected
from tests.api.conftest import LiveServer

LOCAL, PUBLIC = "http://127.0.0.1:7860", "https://abc.gradio.live"
NAVIGATES = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
EMBEDDED = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "cors"}


async def role(request):
    return JSONResponse(request.state.visitor and request.state.visitor.role)


APP = Starlette(routes=[Route("/{path:path}", role, methods=["GET", "HEAD", "POST", "PUT"])])


def auth_of(**values):
    return Auth(Settings(**values), 7860)


def browser(auth, base_url=LOCAL):
    """A browser or a script with cookies of its own."""
    return httpx.AsyncClient(transport=httpx.ASGITransport(AuthMiddleware(APP, auth)), base_url=base_url)


def cookie_of(reply):
    return reply.headers.get("set-cookie", "")


async def test_the_owner_types_nothing_and_stays_the_owner_when_the_app_is_shared():
    auth, told = auth_of(), []
    auth.on_outside = lambda: told.append("outside")
    owner = browser(auth)
    assert (await owner.post("/versions")).json() == "owner"
    assert cookie_of(await owner.get("/"))
    assert not cookie_of(await owner.get("/")) and not told  # it has one now
    # Codespaces, JupyterHub: nothing is public, and yet nobody there is at this machine.
    proxied = await browser(auth).get("/", headers={"x-forwarded-host": "me.github.dev"})
    assert (proxied.json(), told) == ("guest", ["outside"])
    auth.shared = True
    assert (await owner.post("/versions")).json() == "owner"
    assert (await browser(auth).post("/versions")).status_code == 401


async def press(guest, link, **headers):
    """Open the owner's link and press the one button of its page."""
    page = await guest.get(link, headers=headers)
    if page.status_code != 200:
        return page
    token = re.search(r'name="token" type="hidden" value="([^"]+)"', page.text)
    return await guest.post("/", data={"token": token[1]}, headers=headers)


async def test_the_owners_link():
    auth = auth_of(public=True)
    guest = browser(auth, PUBLIC)
    assert (await guest.get("/")).json() == "guest"
    link, printed = auth.owner_link(PUBLIC), []
    auth.on_link_used = lambda: printed.append(auth.owner_link(PUBLIC))
    for method in ("GET", "HEAD"):  # the preview of a messenger does not use it
        seen = await browser(auth, PUBLIC).request(method, link)
        assert (seen.status_code, cookie_of(seen), seen.headers["cache-control"]) == (200, "", "no-store")
    evil = {"origin": "https://evil.example"}
    foreign = await guest.post("/", data={"token": auth.link_code}, headers=evil)
    assert (foreign.status_code, cookie_of(foreign)) == (403, "")  # another site cannot press the button
    reply = await press(guest, link)
    assert (reply.status_code, reply.headers["location"]) == (303, "./")
    assert (await guest.post("/versions")).json() == "owner"
    late = await press(browser(auth, PUBLIC), link, accept="text/html")
    assert (late.status_code, cookie_of(late), "has been used" in late.text) == (403, "", True)
    assert (await press(browser(auth, PUBLIC), printed[0])).status_code == 303


async def test_the_password_opens_the_page():
    guest = browser(auth_of(public=True, guest_password="open <sesame>"), PUBLIC)
    form = await guest.get("/")
    assert (form.status_code, cookie_of(form), 'name="password"' in form.text) == (401, "", True)
    wrong = await guest.post("/login", data={"password": "open"})
    assert (wrong.status_code, "not the password" in wrong.text) == (403, True)
    reloaded = await guest.get("/login", headers={"accept": "text/html"})
    assert (reloaded.status_code, reloaded.headers["location"]) == (303, "./")
    assert (await guest.post("/predict")).status_code == 401
    assert (await guest.post("/login", data={"password": "open <sesame>"})).status_code == 303
    for reply in (await guest.get("/"), await guest.post("/predict")):
        assert reply.json() == "guest"


def test_guesses_that_end_together_are_counted():
    """All are waited for, then all bodies come: only 20 are looked at, and not the right one."""
    auth = auth_of(public=True, guest_password="open sesame")
    guesses = [f"password=wrong-{number:03}" for number in range(59)]
    guesses.insert(50, "password=open+sesame")
    head = "POST /login HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: {}\r\n\r\n"
    with LiveServer(AuthMiddleware(APP, auth)) as server, contextlib.ExitStack() as wave:
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
async def test_another_site_cannot_act_for_a_visitor(base_url):
    visitor = browser(auth_of(cors_origins="https://friend.example"), base_url)
    await visitor.get("/")
    for headers in (
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://[::1"},  # no address at all
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"},
    ):
        reply = await visitor.post("/versions", headers=headers)
        assert (reply.status_code, reply.json()["code"]) == (403, "forbidden"), headers
    assert (await visitor.get("/v1/models", headers=EMBEDDED)).status_code == 403
    assert (await visitor.get("/", headers=NAVIGATES)).status_code == 200
    own = {"origin": base_url, "sec-fetch-site": "same-origin", "sec-fetch-mode": "cors"}
    for headers in (own, EMBEDDED | {"origin": "https://friend.example"}):
        assert (await visitor.post("/predict", headers=headers)).status_code == 200


@pytest.mark.parametrize(
    ("values", "url", "headers", "ending"),
    [
        ({}, LOCAL, {}, "Path=/; HttpOnly; SameSite=Lax"),
        ({"public": True}, PUBLIC, {}, "HttpOnly; SameSite=Lax; Secure"),
        ({"public": True}, "http://demo.example", {"x-forwarded-proto": "https"}, "SameSite=Lax; Secure"),
        ({"host": "0.0.0.0", "embed": True}, PUBLIC, {}, "SameSite=None; Secure; Partitioned"),
    ],
)
async def test_the_cookie_is_no_wider_than_needed(values, url, headers, ending):
    assert cookie_of(await browser(auth_of(**values), url).get("/", headers=headers)).endswith(ending)


PAGE = "<html><head><script>one()</script><script src='/a.js'></script></head><body>{}</body></html>"


def source(script):
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


async def page(request):
    return HTMLResponse(PAGE.format(request.url.hostname * 100))


async def ticks(request):
    return StreamingResponse(iter(["data: 1\n\n", "data: 2\n\n"]), media_type="text/event-stream")


async def broken(request):
    return JSONResponse({"status": "error"}, 500)


PAGES = Starlette(routes=[Route("/", page), Route("/ticks", ticks), Route("/broken", broken)])


def whole_app(**values):
    app = protected(PAGES, auth_of(**values), head="<script>two()</script>")
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost")


@pytest.mark.parametrize("path", ["/", "/ticks", "/broken", "/nothing"])
async def test_every_answer_has_the_headers_and_only_the_page_its_scripts(path):
    for embed, ancestors in ((False, "'self'"), (True, "'self' https:")):
        headers = (await whole_app(embed=embed).get(path)).headers
        assert set(OTHERS) <= set(headers)
        policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
        assert (policy["img-src"], policy["connect-src"]) == ("'self' data: blob:", "'self'")
        own = f" {source('one()')} {source('two()')}" if path == "/" else ""
        assert policy["script-src"] == f"'self' 'unsafe-eval'{own}"
        assert policy["frame-ancestors"] == ancestors


@pytest.mark.parametrize("accepted", ["gzip, br", "identity"])
async def test_the_page_is_whole_and_small(accepted):
    async with whole_app().stream("GET", "/", headers={"Accept-Encoding": accepted}) as response:
        raw = b"".join([part async for part in response.aiter_raw()])
    assert response.headers["content-length"] == str(len(raw))
    assert response.headers["vary"] == "Accept-Encoding"
    whole = PAGE.format("localhost" * 100).encode()
    assert (gzip.decompress(raw) if accepted.startswith("gzip") else raw) == whole
