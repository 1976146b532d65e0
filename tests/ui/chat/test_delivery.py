"""A page that takes its updates slowly, on Gradio's own queue."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import gradio as gr
import httpx
import pytest

from dspy_demo.ui.chat.cadence import Cadence
from dspy_demo.ui.chat.delivery import delivered
from dspy_demo.ui.chat.live import LiveTurn
from dspy_demo.ui.pages import _mounted
from tests.scripted_backend import ScriptedBackend, scripted_answer
from tests.ui.chat.test_live import live

TOKENS = 300


@pytest.mark.parametrize("waits", [True, False], ids=["waits", "as it was"])
async def test_what_nobody_takes_does_not_pile_up(tmp_path: Path, waits: bool) -> None:
    turns: list[LiveTurn] = []

    async def draw(request: gr.Request) -> AsyncIterator[str]:
        backend = ScriptedBackend(scripted_answer("x" * TOKENS, tokens=["x"] * TOKENS), pause_s=0.002)
        turns.append(live(backend, tmp_path))
        taken = partial(delivered, request) if waits else lambda: True
        async for snapshot in turns[0].snapshots(Cadence(0.001), taken):
            yield snapshot.answer_text

    with gr.Blocks() as page:
        answer, ask = gr.Textbox(), gr.Button("Ask")
        ask.click(draw, None, answer)
    app = _mounted(page, 5)
    client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1")
    async with app.router.lifespan_context(app), client, asyncio.timeout(30):
        joined = await client.post(
            "/gradio_api/queue/join", json={"data": [], "fn_index": 0, "session_hash": "s"}
        )
        assert joined.status_code == 200
        # Nobody reads this page's stream until the answer is complete.
        while not turns or turns[0].view.running:
            await asyncio.sleep(0.01)
        waiting = page._queue.pending_messages_per_session["s"].qsize()
        reply = await client.get("/gradio_api/queue/data", params={"session_hash": "s"})
    assert "x" * TOKENS in reply.text
    assert (waiting <= 5) is waits
