"""The headers of every answer, and a policy that knows the page's own scripts."""

from __future__ import annotations

import base64
import gzip
import hashlib

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from dspy_demo.web.headers import OTHERS, ResponseHeaders

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


def client(**options: object) -> httpx.AsyncClient:
    app = ResponseHeaders(APP, **options)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://a.example")


@pytest.mark.parametrize("frames", [[], ["https:"]])
@pytest.mark.parametrize("path", ["/", "/ticks", "/broken", "/nothing"])
async def test_every_answer_has_the_headers_and_only_the_page_its_scripts(
    path: str, frames: list[str]
) -> None:
    async with client(head="<script>two()</script>", frame_ancestors=frames) as http:
        headers = (await http.get(path)).headers
    assert set(OTHERS) <= set(headers)
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert (policy["img-src"], policy["connect-src"]) == ("'self' data: blob:", "'self'")
    own = f" {source('one()')} {source('two()')}" if path == "/" else ""
    assert policy["script-src"] == f"'self' 'unsafe-eval'{own}"
    assert policy["frame-ancestors"] == " ".join(["'self'", *frames])


@pytest.mark.parametrize("accepted", ["gzip, br", "identity"])
async def test_the_page_is_whole_and_small(accepted: str) -> None:
    async with client() as http, http.stream("GET", "/", headers={"Accept-Encoding": accepted}) as response:
        raw = b"".join([part async for part in response.aiter_raw()])
    whole = PAGE.format("a.example" * 100).encode()
    assert response.headers["content-length"] == str(len(raw))
    assert response.headers["vary"] == "accept-encoding"
    assert (gzip.decompress(raw) if accepted.startswith("gzip") else raw) == whole
