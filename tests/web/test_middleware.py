"""The outer layers over small apps: who is let in, what goes out with an answer, what of Gradio is open."""

import base64
import contextlib
import gzip
import hashlib
import json
import re
import socket

import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.responses import HTMLResponse, JSONResponse, StreamingResponse
from starlette.routing import Route

from dspy_demo.api.errors import handle_errors
from dspy_demo.settings import Settings
from dspy_demo.web.auth import Auth
from dspy_demo.web.gradio_routes import GradioRoutes, PageSessions, is_closed
from dspy_demo.web.headers import OTHERS
from dspy_demo.web.middleware import AuthMiddleware
from dspy_demo.web.server import protected
from tests.api.conftest import LiveServer, client_of

LOCAL, PUBLIC = "http://127.0.0.1:7860", "https://abc.gradio.live"
NAVIGATES = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
EMBEDDED = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "cors"}
PAGE = "<html><head><script>one()</script><script src='/a.js'></script></head><body>{}</body></html>"
FILE = {"path": "http://127.0.0.1:1/x", "meta": {"_type": "gradio.FileData"}}
API = "/gradio_api"
OPEN = """GET /, GET /theme.css, GET /assets/index.js, GET /static/js/x.js, GET {0}/heartbeat/abc,
GET {0}/queue/data, GET {0}/info, HEAD {0}/startup-events, POST {0}/queue/join, POST {0}/run/predict,
POST {0}/call/chat, GET {0}/call/chat/0123, POST /predict, GET /health"""
CLOSED = """{0}, {0}/, {0}/file=/etc/passwd, {0}/file=http://127.0.0.1/, {0}/file/etc/passwd, {0}/upload,
{0}/proxy=https://x.hf.space/, {0}/stream/abc, {0}/stream/a/b/1/playlist.m3u8, {0}/upload_progress,
{0}/component_server, {0}/process_recording, {0}/custom_component/a/client/b/c, {0}/deep_link, {0}/runs,
{0}/vibe-edit/, {0}/profiling/traces, {0}/mcp/sse, {0}/token, {0}/heartbeat/a/../../upload,
{0}/what/the/next/version/brings, /v1/embeddings, /login/, /login/huggingface, /logout, /svelte/x.js"""


async def role(request):
    return JSONResponse(request.state.visitor and request.state.visitor.role)


APP = Starlette(routes=[Route("/{path:path}", role, methods=["GET", "HEAD", "POST", "PUT"])])


def auth_of(**values):
    return Auth(Settings(**values), 7860)


def browser(auth, base_url=LOCAL):
    """A browser or a script with cookies of its own."""
    return client_of(AuthMiddleware(APP, auth), base_url)


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
    evil = [{"origin": origin} for origin in ("https://evil.example", "null", "http://[::1")]
    for headers in (*evil, {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}):
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


def source(script):
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


async def page(request):
    return HTMLResponse(PAGE.format(request.url.hostname * 100))


async def ticks(request):
    return StreamingResponse(iter(["data: 1\n\n", "data: 2\n\n"]), media_type="text/event-stream")


PAGES = Starlette(routes=[Route("/", page), Route("/ticks", ticks)])


def whole_app(**values):
    return client_of(protected(PAGES, auth_of(**values), head="<script>two()</script>"), "http://localhost")


@pytest.mark.parametrize("path", ["/", "/ticks", "/nothing"])
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


def test_what_the_page_and_the_clients_use_is_open_and_all_else_is_closed():
    for one in OPEN.format(API).replace("\n", " ").split(", "):
        assert not is_closed(*one.split()), one
    for path in CLOSED.format(API).replace("\n", " ").split(", "):
        for method in ("GET", "HEAD", "POST", "PUT", "OPTIONS"):
            assert is_closed(method, path.strip()), path


async def echo(request):
    return JSONResponse({"got": (await request.body()).decode()})


ECHO = Starlette(routes=[Route(f"{API}/queue/join", echo, methods=["POST"])])
EVENTS = FastAPI()
EVENTS.mount("/", GradioRoutes(ECHO, events=[1], names=["chat"], sessions=PageSessions()))
handle_errors(EVENTS, {})


async def join(body):
    return await client_of(EVENTS).post(f"{API}/queue/join", content=body)


async def test_an_event_passes_as_it_came_and_what_is_no_json_is_refused():
    for value in ("path meta", {"path": "x"}, {"meta": FILE["meta"]}, [["path", "meta"]]):
        body = {"data": [value], "fn_index": 1, "session_hash": "abc"}
        response = await join(json.dumps(body).encode())
        assert (response.status_code, json.loads(response.json()["got"])) == (200, body)
    for broken in (b"{", b"[]", b"\xff\xfe\xfd", b"[" * 100_000):
        assert (await join(broken)).status_code == 422


@pytest.mark.parametrize("value", [FILE, [FILE], {"a": [1, {"b": FILE}]}, {"path": "x", "meta": 3}])
async def test_an_event_with_a_file_at_any_depth_is_refused_however_it_is_written(value):
    for body in ({"data": value, "fn_index": 1}, {"data": [], "fn_index": 1, "event_data": value}):
        text = json.dumps(body)
        for written in (text, text.replace("path", r"p\u0061th")):
            for encoding in ("utf-8", "utf-16", "utf-32"):
                assert (await join(written.encode(encoding))).status_code == 403
    deep = b'{"fn_index": 1, "data": ' + b"[" * 5000 + json.dumps(value).encode() + b"]" * 5000 + b"}"
    assert (await join(deep)).status_code in {403, 422}
