"""What the page says while a version answers that is served elsewhere, and how its turns end."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from playwright.async_api import expect

from dspy_demo.events import FieldDelta, TurnFinished, TurnStarted, to_wire
from tests.browser.chat_page import LEFT_MID_STREAM, ChatPage
from tests.browser.conftest import Problems
from tests.services import until


@contextmanager
def model_server(finish_reason: Any = None) -> Iterator[tuple[str, list[float]]]:
    """Speaks as a server of this app. Its replies end as `finish_reason` says, or go on for ever.

    Gives its URL, and when each asker went before the end of an answer.
    """
    about = {"server": "dspy-demo", "version": "models:/demo/4", "lm": "openai/big", "program": "react"}
    events = [
        TurnStarted("local", "openai/big"),
        FieldDelta("reasoning", "reasoning", "Let me see.", "predict"),
        FieldDelta("answer", "answer", "It is", "predict"),
        TurnFinished({"reasoning": "Let me see.", "answer": "It is"}, finish_reason=finish_reason),
    ]
    left_at: list[float] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._begin("application/json")
            self.wfile.write(json.dumps(about | {"ready": True}).encode())

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self._begin("text/event-stream")
            for event in events if finish_reason else events[:-1]:
                self.wfile.write(f"data: {json.dumps(to_wire(event))}\n\n".encode())
            try:
                while not finish_reason:
                    self.wfile.write(b": still here\n\n")
                    time.sleep(0.05)
                self.wfile.write(b"data: [DONE]\n\n")
            except OSError:
                left_at.append(time.monotonic())

        def _begin(self, kind: str) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", left_at
        server.shutdown()


async def test_a_version_sets_what_is_picked_and_says_that_its_reply_was_cut(chat: ChatPage) -> None:
    banner, sidebar = chat.page.locator("#banner"), chat.sidebar
    await expect(banner).to_be_visible()
    with model_server("length") as (url, _):
        await chat.connect(url)
        for picker, value in (("model", "openai/big"), ("program", "ReAct with tools")):
            await expect(chat.picker(picker)).to_be_hidden()
            await expect(sidebar.get_by_text(value, exact=True)).to_be_visible()
        await expect(sidebar.get_by_text("Set by demo v4")).to_have_count(2)
        await expect(sidebar.get_by_role("button", name="Generation settings")).to_be_hidden()
        await expect(banner).to_be_hidden()
        await chat.ask("What is it?")
        await chat.done()
    await expect(chat.answers).to_contain_text("It is")
    await expect(chat.answers).to_contain_text("The reply was cut at the token limit.")
    for button in ("Retry", "Copy message", "Undo"):
        await expect(chat.page.get_by_role("button", name=button).last).to_be_visible()
    await chat.switch("Local")
    for picker in ("model", "program"):
        await expect(chat.picker(picker)).to_be_visible()
    await expect(sidebar.get_by_text("Set by")).to_have_count(0)
    await expect(banner).to_be_visible()


async def test_ending_a_turn_reaches_the_model_server(chat: ChatPage, problems: Problems) -> None:
    problems.allow(LEFT_MID_STREAM)

    async def stop() -> None:
        await chat.stop_button.click()
        await expect(chat.footers.last).to_contain_text("Stopped")

    async def reload() -> None:
        await chat.page.reload(wait_until="commit")

    async def close() -> None:
        await chat.page.close()

    with model_server() as (url, left_at):
        for number, end in enumerate((stop, reload, close)):
            if end is not reload:  # after a reload nothing is connected
                await chat.loaded()
                await chat.connect(url)
            await chat.new_chat.click()
            await expect(chat.questions).to_have_count(0)
            await chat.ask("What is it?")
            await expect(chat.answers.last).to_contain_text("It is")
            await end()
            ended_at = time.monotonic()  # a busy browser may take long to click
            await until(lambda number=number: len(left_at) > number)
            assert left_at[number] - ended_at < 2
