"""What of Gradio stays open, and what an event may not hold."""

import json

import httpx
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from dspy_demo.api.errors import handle_errors
from dspy_demo.web.gradio_routes import GradioRoutes, PageSessions, is_closed

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


def test_what_the_page_and_the_clients_use_is_open_and_all_else_is_closed():
    for one in OPEN.format(API).replace("\n", " ").split(", "):
        assert not is_closed(*one.split()), one
    for path in CLOSED.format(API).replace("\n", " ").split(", "):
        for method in ("GET", "HEAD", "POST", "PUT", "OPTIONS"):
            assert is_closed(method, path.strip()), path


async def echo(request):
    return JSONResponse({"got": (await request.body()).decode()})


ECHO = Starlette(routes=[Route(f"{API}/queue/join", echo, methods=["POST"])])
APP = FastAPI()
APP.mount("/", GradioRoutes(ECHO, events=[1], names=["chat"], sessions=PageSessions()))
handle_errors(APP, {})


async def join(body):
    async with httpx.AsyncClient(transport=httpx.ASGITransport(APP), base_url="http://test") as http:
        return await http.post(f"{API}/queue/join", content=body)


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
