"""Requests that stay open: streams to pages, and whatever else a guest does not end."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from dspy_demo.access.gate import Gate
from dspy_demo.access.guard import Guard
from dspy_demo.settings import Settings

PUBLIC = "https://abc.gradio.live"


class Held:
    """A route that answers when it is told to."""

    def __init__(self) -> None:
        self.open, self.answer = 0, asyncio.Event()

    async def reply(self, request: Request) -> Response:
        if request.url.path == "/stream":
            self.open += 1
            await self.answer.wait()
            self.open -= 1
        return PlainTextResponse("here")


async def test_a_guest_and_all_guests_hold_only_so_many(data_dir: Path) -> None:
    settings = Settings(
        data_dir=data_dir,
        public=True,
        guest_open_requests=8,
        guests_open_requests=12,
        owner_token="owner-token-0123456789",
    )
    held = Held()
    guard = Guard(
        Starlette(routes=[Route("/{path:path}", held.reply)]), Gate(settings, 7860), body_max_bytes=1000
    )

    def client() -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.ASGITransport(guard), base_url=PUBLIC)

    one, another, third = client(), client(), client()
    for browser in (one, another, third):
        await browser.get("/")
    streams = [asyncio.create_task(one.get("/stream")) for _ in range(8)]
    while held.open < 8:
        await asyncio.sleep(0.01)
    refused = await one.get("/stream")
    assert (refused.status_code, refused.json()["code"]) == (503, "too_many_open")
    assert "Close some" in refused.json()["message"]
    streams += [asyncio.create_task(another.get("/stream")) for _ in range(4)]
    while held.open < 12:
        await asyncio.sleep(0.01)
    assert (await third.get("/stream")).status_code == 503
    # Neither the owner nor who watches the server is kept out.
    owner = {"authorization": "Bearer owner-token-0123456789"}
    assert (await client().get("/docs", headers=owner)).text == "here"
    assert (await client().get("/health")).text == "here"
    streams.pop().cancel()
    await asyncio.sleep(0.05)
    assert (await third.get("/docs")).text == "here"
    held.answer.set()
    await asyncio.gather(*streams)
    assert not guard._open._open
