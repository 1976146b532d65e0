"""What of Gradio stays open, and what an event may not hold."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from dspy_demo.api.errors import handle_errors
from dspy_demo.web.gradio_routes import GradioRoutes, PageSessions, is_closed

FILE = {"path": "http://127.0.0.1:1/x", "meta": {"_type": "gradio.FileData"}}
API = "/gradio_api"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/config"),
        ("GET", "/theme.css"),
        ("GET", "/assets/index.js"),
        ("GET", "/static/js/x.js"),
        ("GET", f"{API}/heartbeat/abc"),
        ("GET", f"{API}/queue/data"),
        ("GET", f"{API}/info"),
        ("HEAD", f"{API}/startup-events"),
        ("POST", f"{API}/queue/join"),
        ("POST", f"{API}/run/predict"),
        ("POST", f"{API}/call/chat"),
        ("GET", f"{API}/call/chat/0123"),
        ("POST", "/predict"),
        ("POST", "/v1/chat/completions"),
        ("GET", "/health"),
    ],
)
def test_what_the_page_and_the_clients_use_is_open(method: str, path: str) -> None:
    assert not is_closed(method, path)


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "OPTIONS"])
@pytest.mark.parametrize(
    "path",
    [
        API,
        f"{API}/",
        f"{API}/file=/etc/passwd",
        f"{API}/file=http://127.0.0.1/",
        f"{API}/file/etc/passwd",
        f"{API}/proxy=https://x.hf.space/",
        f"{API}/stream/abc",
        f"{API}/stream/a/b/1/playlist.m3u8",
        f"{API}/upload",
        f"{API}/upload_progress",
        f"{API}/component_server",
        f"{API}/process_recording",
        f"{API}/custom_component/a/client/b/c",
        f"{API}/deep_link",
        f"{API}/runs",
        f"{API}/vibe-edit/",
        f"{API}/profiling/traces",
        f"{API}/mcp/sse",
        f"{API}/token",
        f"{API}/heartbeat/a/../../upload",
        f"{API}/what/the/next/version/brings",
        "/login/",
        "/login/huggingface",
        "/logout",
        "/monitoring/summary",
        "/svelte/x.js",
    ],
)
def test_everything_else_of_gradio_is_closed(method: str, path: str) -> None:
    assert is_closed(method, path)


async def echo(request: Request) -> Response:
    return JSONResponse({"got": (await request.body()).decode()})


ECHO = Starlette(routes=[Route(f"{API}/queue/join", echo, methods=["POST"])])
APP = FastAPI()
APP.mount("/", GradioRoutes(ECHO, events=[1], names=["chat"], sessions=PageSessions()))
handle_errors(APP, {})


async def join(body: bytes) -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(APP), base_url="http://test") as http:
        return await http.post(f"{API}/queue/join", content=body)


@pytest.mark.parametrize("value", ["path meta", {"path": "x"}, {"meta": FILE["meta"]}, [["path", "meta"]]])
async def test_an_event_passes_as_it_came(value: Any) -> None:
    body = {"data": [value], "fn_index": 1, "session_hash": "abc"}
    response = await join(json.dumps(body).encode())
    assert response.status_code == 200
    assert json.loads(response.json()["got"]) == body


@pytest.mark.parametrize("value", [FILE, [FILE], {"a": [1, {"b": FILE}]}, {"path": "x", "meta": 3}])
async def test_an_event_with_a_file_at_any_depth_is_refused(value: Any) -> None:
    for body in ({"data": value, "fn_index": 1}, {"data": [], "fn_index": 1, "event_data": value}):
        assert (await join(json.dumps(body).encode())).status_code == 403
    deep = b'{"fn_index": 1, "data": ' + b"[" * 5000 + json.dumps(value).encode() + b"]" * 5000 + b"}"
    assert (await join(deep)).status_code in {403, 422}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-32"])
@pytest.mark.parametrize("written", [str, lambda text: text.replace("path", r"p\u0061th")])
async def test_an_event_with_a_file_is_refused_however_it_is_written(encoding: str, written: Any) -> None:
    text = written(json.dumps({"data": [FILE], "fn_index": 1}))
    assert (await join(text.encode(encoding))).status_code == 403


@pytest.mark.parametrize("body", [b"{", b"[]", b"\xff\xfe\xfd", b"[" * 100_000])
async def test_what_is_no_json_is_refused(body: bytes) -> None:
    assert (await join(body)).status_code == 422


async def test_a_closed_route_is_as_if_it_were_none() -> None:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(APP), base_url="http://test") as http:
        response = await http.get(f"{API}/file=/etc/passwd")
    assert response.status_code == 404
    assert "passwd" not in response.text
