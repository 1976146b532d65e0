"""The outermost layer over a small app that tells who it let in."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from dspy_demo.errors import DemoError
from dspy_demo.settings import Settings
from dspy_demo.web.auth import Auth
from dspy_demo.web.middleware import BODY_MAX_BYTES, AuthMiddleware, refusal

LOCAL, PUBLIC = "http://127.0.0.1:7860", "https://abc.gradio.live"
TOKEN = "owner-token-0123456789"


async def who(request: Request) -> Response:
    visitor = request.state.visitor
    size = len(await request.body())
    return JSONResponse({"role": visitor and visitor.role, "name": visitor and visitor.name, "size": size})


MakeClient = Callable[..., httpx.AsyncClient]


@pytest.fixture
def auths() -> list[Auth]:
    return []


@pytest.fixture
def client(data_dir: Path, auths: list[Auth]) -> MakeClient:
    """A browser or a script of its own: ``client(PUBLIC, public=True)``; the same settings, the same app."""
    routes = [Route("/{path:path}", who, methods=["GET", "HEAD", "POST", "PUT"])]
    answers = {DemoError: lambda request, error: refusal(request.scope, error)}
    app = Starlette(routes=routes, exception_handlers=answers)  # type: ignore[arg-type]

    def make(base_url: str = LOCAL, auth: Auth | None = None, **values: Any) -> httpx.AsyncClient:
        auth = auth or Auth(Settings(data_dir=data_dir, **values), 7860)
        auths.append(auth)
        guarded = AuthMiddleware(app, auth)
        return httpx.AsyncClient(transport=httpx.ASGITransport(guarded), base_url=base_url)

    return make


def cookie_of(reply: httpx.Response) -> str:
    return reply.headers.get("set-cookie", "")


async def test_at_the_machine_there_is_nothing_to_type(client: MakeClient) -> None:
    browser = client()
    assert (await browser.post("/versions")).json()["role"] == "owner"
    page = await browser.get("/")
    assert page.json()["role"] == "owner"
    assert cookie_of(page)
    assert not cookie_of(await browser.get("/"))  # it has one now


async def test_the_owner_stays_the_owner_when_the_app_is_shared(
    client: MakeClient, auths: list[Auth]
) -> None:
    browser = client()
    await browser.get("/")
    auths[0].share(True)
    assert (await browser.post("/versions")).json()["role"] == "owner"
    assert (await client(auth=auths[0]).post("/versions")).status_code == 401


@pytest.mark.parametrize(
    "path", ["/predict", "/predict/stream", "/v1/models", "/versions", "/docs", "/openapi.json", "/metrics",
             "/config", "/gradio_api/info", "/gradio_api/queue/join", "/assets/x.js", "/login"]
)  # fmt: skip
async def test_on_a_public_link_nothing_answers_a_stranger(client: MakeClient, path: str) -> None:
    stranger = client(PUBLIC, public=True)
    for method in ("GET", "POST", "PUT", "HEAD"):
        reply = await stranger.request(method, path)
        assert reply.status_code in {401, 404}, (method, path)
        if method != "HEAD" and reply.status_code == 401:
            assert "Authorization: Bearer" in reply.text
            assert reply.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("path", ["/health", "/ready"])
async def test_but_whether_it_is_up(client: MakeClient, path: str) -> None:
    assert (await client(PUBLIC, public=True).get(path)).json()["role"] is None


async def test_a_guest_gets_a_session_from_the_page(client: MakeClient) -> None:
    guest = client(PUBLIC, public=True)
    page = await guest.get("/")
    assert page.json()["role"] == "guest"
    asked = (await guest.post("/predict")).json()
    assert asked["role"] == "guest"
    assert asked["name"] == page.json()["name"]
    other = client(PUBLIC, public=True)
    assert (await other.get("/")).json()["name"] != asked["name"]


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
    printed: list[str] = []
    auths[0].on_link_used = lambda: printed.append(auths[0].owner_link(PUBLIC))
    reply = await press(browser, link)
    assert (reply.status_code, reply.headers["location"]) == (303, "./")
    assert (await browser.post("/versions")).json()["role"] == "owner"
    late = await press(client(PUBLIC, auth=auths[0]), link, accept="text/html")
    assert late.status_code == 403
    assert "has been used" in late.text
    assert "set-cookie" not in late.headers
    assert (await press(client(PUBLIC, auth=auths[0]), printed[0])).status_code == 303


async def test_another_site_cannot_press_the_button(client: MakeClient, auths: list[Auth]) -> None:
    browser = client(PUBLIC, public=True)
    token = {"token": auths[0].link_code}
    foreign = await browser.post("/", data=token, headers={"origin": "https://evil.example"})
    assert (foreign.status_code, cookie_of(foreign)) == (403, "")
    assert (await browser.post("/", data={"token": "x"})).status_code == 403
    assert (await browser.post("/", data=token)).status_code == 303


async def test_a_token_needs_no_page(client: MakeClient) -> None:
    script = client(PUBLIC, public=True, owner_token=TOKEN)
    headers = {"authorization": f"Bearer {TOKEN}"}
    assert (await script.post("/versions", headers=headers)).json()["role"] == "owner"
    refused = await script.post("/v1/chat/completions", headers={"authorization": "Bearer wrong"})
    assert refused.status_code == 401
    assert refused.json()["error"]["code"] == "unauthorized"


async def test_the_password_opens_the_page(client: MakeClient) -> None:
    guest = client(PUBLIC, public=True, guest_password="open <sesame>")
    form = await guest.get("/")
    assert (form.status_code, cookie_of(form)) == (401, "")
    assert 'name="password"' in form.text
    wrong = await guest.post("/login", data={"password": "open"})
    assert wrong.status_code == 403
    assert "not the password" in wrong.text
    reloaded = await guest.get("/login", headers={"accept": "text/html"})
    assert (reloaded.status_code, reloaded.headers["location"]) == (303, "./")
    assert (await guest.post("/predict")).status_code == 401
    right = await guest.post("/login", data={"password": "open <sesame>"})
    assert right.status_code == 303
    assert (await guest.get("/")).json()["role"] == "guest"
    assert (await guest.post("/predict")).json()["role"] == "guest"


@pytest.mark.parametrize("base_url", [LOCAL, PUBLIC])
async def test_another_site_cannot_act_for_a_visitor(client: MakeClient, base_url: str) -> None:
    browser = client(base_url)
    await browser.get("/")
    for headers in (
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:9999"},
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
    assert (await browser.post("/predict", headers=own)).status_code == 200


async def test_a_site_that_the_owner_names_may_call(client: MakeClient) -> None:
    browser = client(LOCAL, cors_origins="https://friend.example")
    asked = {"origin": "https://friend.example", "sec-fetch-site": "cross-site"}
    assert (await browser.post("/predict", headers=asked)).status_code == 200


async def test_a_request_is_bounded(client: MakeClient) -> None:
    browser = client()
    too_long = await browser.post("/predict", content=b"x" * (BODY_MAX_BYTES + 1))
    assert too_long.json()["code"] == "body_too_large"


async def test_a_refusal_is_a_page_for_a_person_and_json_for_a_script(client: MakeClient) -> None:
    guest = client(PUBLIC, public=True)
    assert (await guest.get("/docs")).json()["code"] == "unauthorized"
    page = await guest.get("/docs", headers={"accept": "text/html,*/*"})
    assert page.headers["content-type"].startswith("text/html")
    assert "Open the page" in page.text


async def test_the_owner_who_comes_through_a_proxy_is_told_how(client: MakeClient, auths: list[Auth]) -> None:
    """Codespaces, JupyterHub: nothing is public, and yet nobody there is at this machine."""
    browser = client()
    told: list[str] = []
    auths[0].on_outside = lambda: told.append("outside")
    await browser.get("/")
    assert told == []
    proxied = await client(auth=auths[0]).get("/", headers={"x-forwarded-host": "me.github.dev"})
    assert proxied.json()["role"] == "guest"
    assert told == ["outside"]


@pytest.mark.parametrize(
    ("values", "url", "headers", "ending"),
    [
        ({}, LOCAL, {}, "Path=/; HttpOnly; SameSite=Lax"),
        ({"public": True}, PUBLIC, {}, "HttpOnly; SameSite=Lax; Secure"),
        ({"public": True}, "http://demo.example", {"x-forwarded-proto": "https"}, "SameSite=Lax; Secure"),
        ({"host": "0.0.0.0", "embed": True}, PUBLIC, {}, "SameSite=None; Secure; Partitioned"),
    ],
    ids=["at the machine", "https", "https at a proxy", "in a frame"],
)
async def test_the_cookie_is_no_wider_than_needed(
    client: MakeClient, values: dict[str, Any], url: str, headers: dict[str, str], ending: str
) -> None:
    assert cookie_of(await client(url, **values).get("/", headers=headers)).endswith(ending)
