"""The headers of every answer, and a policy that knows the page's own scripts."""

from __future__ import annotations

import base64
import gzip
import hashlib
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from dspy_demo.settings import Settings
from dspy_demo.web.auth import Auth
from dspy_demo.web.headers import OTHERS
from dspy_demo.web.server import protected

PAGE = "<html><head><script>one()</script><script src='/a.js'></script></head><body>{}</body></html>"


def source(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


async def page(request: Request) -> Response:
    return HTMLResponse(PAGE.format(request.url.hostname * 100))


async def ticks(request: Request) -> Response:
    return StreamingResponse(iter(["data: 1\n\n", "data: 2\n\n"]), media_type="text/event-stream")


async def broken(request: Request) -> Response:
    return JSONResponse({"status": "error"}, 500)


APP = Starlette(routes=[Route("/", page), Route("/ticks", ticks), Route("/broken", broken)])


def client(data_dir: Path, *, embed: bool = False) -> httpx.AsyncClient:
    auth = Auth(Settings(data_dir=data_dir, embed=embed), 1)
    app = protected(APP, auth, head="<script>two()</script>")
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost")


@pytest.mark.parametrize("path", ["/", "/ticks", "/broken", "/nothing"])
async def test_every_answer_has_the_headers_and_only_the_page_its_scripts(data_dir: Path, path: str) -> None:
    for embed, ancestors in ((False, "'self'"), (True, "'self' https:")):
        async with client(data_dir, embed=embed) as http:
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
    async with client(data_dir) as http, http.stream("GET", "/", headers=asking) as response:
        raw = b"".join([part async for part in response.aiter_raw()])
    assert response.headers["content-length"] == str(len(raw))
    assert response.headers["vary"] == "Accept-Encoding"
    whole = PAGE.format("localhost" * 100).encode()
    assert (gzip.decompress(raw) if accepted.startswith("gzip") else raw) == whole
