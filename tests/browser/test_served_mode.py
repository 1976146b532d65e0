"""What the page says while a version answers that is served elsewhere, and how its turns end."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import expect

from dspy_demo.events import FieldDelta, TurnFinished, TurnStarted, to_wire
from tests.browser.chat_page import ChatPage
from tests.browser.conftest import DESKTOP, PHONE, NewPage
from tests.processes import ServerProcess, running_app

VERSION = "models:/demo/4"


@contextmanager
def model_server(finish_reason: Any) -> Iterator[str]:
    """A server that speaks as one of this app does, and whose replies end as `finish_reason` says."""
    about = {"server": "dspy-demo", "version": VERSION, "ready": True, "lm": "openai/big", "program": "react"}
    events = [
        TurnStarted("local", "openai/big"),
        FieldDelta("reasoning", "reasoning", "Let me see.", "predict"),
        FieldDelta("answer", "answer", "It is", "predict"),
        TurnFinished({"reasoning": "Let me see.", "answer": "It is"}, finish_reason=finish_reason),
    ]
    stream = "".join(f"data: {json.dumps(to_wire(event))}\n\n" for event in events) + "data: [DONE]\n\n"

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._reply("application/json", json.dumps(about))

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self._reply("text/event-stream", stream)

        def _reply(self, kind: str, body: str) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, format: str, *args: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    home = tmp_path_factory.mktemp("served-mode")
    with running_app(data_dir=home / "data", home=home) as server:
        yield server


@pytest_asyncio.fixture(loop_scope="session")
async def chat(new_page: NewPage, app: ServerProcess) -> ChatPage:
    chat = await ChatPage(await new_page()).open(app.url)
    if "open" not in (await chat.sidebar.get_attribute("class") or ""):
        await chat.toggle.click()
    return chat


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
async def test_what_a_version_has_set_cannot_be_picked(chat: ChatPage) -> None:
    banner = chat.page.locator("#banner")
    await expect(banner).to_be_visible()
    with model_server("stop") as url:
        await chat.connect(url)
        for picker, value in (("model", "openai/big"), ("program", "ReAct with tools")):
            await expect(chat.picker(picker)).to_be_hidden()
            await expect(chat.sidebar.get_by_text(value, exact=True)).to_be_visible()
        await expect(chat.sidebar.get_by_text("Set by demo v4")).to_have_count(2)
        await expect(chat.sidebar.get_by_role("button", name="Generation settings")).to_be_hidden()
        await expect(banner).to_be_hidden()
        await chat.switch("Local")
        for picker in ("model", "program"):
            await expect(chat.picker(picker)).to_be_visible()
        await expect(chat.sidebar.get_by_text("Set by")).to_have_count(0)
        await expect(banner).to_be_visible()


@pytest.mark.parametrize(
    ("finish_reason", "says"),
    [
        ("length", "The reply was cut at this version's limit."),
        ("content_filter", "The provider's filter cut"),
    ],
)
async def test_a_reply_that_was_cut_says_so_and_can_be_asked_for_again(
    chat: ChatPage, finish_reason: str, says: str
) -> None:
    with model_server(finish_reason) as url:
        await chat.connect(url)
        await chat.ask("What is it?")
        await chat.done()
    await expect(chat.answers).to_contain_text("It is")
    await expect(chat.answers).to_contain_text(says)
    for button in ("Retry", "Copy message", "Undo"):
        await expect(chat.page.get_by_role("button", name=button).last).to_be_visible()
