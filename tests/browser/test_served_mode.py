"""What the page says while a version answers that is served elsewhere, and how its turns end."""

import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from playwright.async_api import expect

from dspy_demo.events import FieldDelta, TurnFinished, TurnStarted, to_wire
from tests.browser.chat_page import LEFT_MID_STREAM
from tests.services import until

ABOUT = {"server": "dspy-demo", "version": "models:/demo/4", "lm": "openai/big", "program": "react"}
BEGIN = [
    TurnStarted("local", "openai/big"),
    FieldDelta("reasoning", "reasoning", "Let me see.", "predict"),
    FieldDelta("answer", "answer", "It is", "predict"),
]
CUT = TurnFinished({"reasoning": "Let me see.", "answer": "It is"}, finish_reason="length")


@contextmanager
def model_server(*end):
    """Speaks as a server of this app; a reply without an `end` goes on for ever.

    Gives its URL, and when each asker went before the end of an answer.
    """
    left_at = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self._send("application/json", json.dumps(ABOUT | {"ready": True}))

        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            events = [f"data: {json.dumps(to_wire(event))}\n\n" for event in (*BEGIN, *end)]
            self._send("text/event-stream", "".join(events))
            try:
                while not end:
                    self.wfile.write(b": still here\n\n")
                    time.sleep(0.05)
                self.wfile.write(b"data: [DONE]\n\n")
            except OSError:
                left_at.append(time.monotonic())

        def _send(self, kind, text):
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.end_headers()
            self.wfile.write(text.encode())

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", left_at
        server.shutdown()


async def connect(chat, url):
    await chat.page.get_by_role("button", name="Connect to a server").click()
    await chat.page.get_by_placeholder("http://127.0.0.1:5001").fill(url)
    await chat.page.get_by_role("button", name="Connect", exact=True).click()
    await expect(chat.page.locator("#server")).to_contain_text("Connected")
    await chat.switch("Served")


async def test_a_version_sets_what_is_picked_and_says_that_its_reply_was_cut(chat):
    banner, pickers = chat.page.locator("#banner"), [chat.model, chat.page.locator("#program input")]
    await expect(banner).to_be_visible()
    with model_server(CUT) as (url, _):
        await connect(chat, url)
        for picker, value in zip(pickers, ("openai/big", "ReAct with tools"), strict=True):
            await expect(picker).to_be_hidden()
            await expect(chat.sidebar.get_by_text(value, exact=True)).to_be_visible()
        await expect(chat.sidebar.get_by_text("Set by demo v4")).to_have_count(2)
        await expect(chat.sidebar.get_by_role("button", name="Generation settings")).to_be_hidden()
        await expect(banner).to_be_hidden()
        await chat.ask_each("What is it?")
    await expect(chat.answers).to_contain_text("It is")
    await expect(chat.answers).to_contain_text("The reply was cut at the token limit.")
    for button in ("Retry", "Copy message", "Undo"):
        await expect(chat.page.get_by_role("button", name=button).last).to_be_visible()
    await chat.switch("Local")
    for picker in pickers:
        await expect(picker).to_be_visible()
    await expect(chat.sidebar.get_by_text("Set by")).to_have_count(0)
    await expect(banner).to_be_visible()


async def test_ending_a_turn_reaches_the_model_server(chat, problems):
    problems.allowed.append(LEFT_MID_STREAM)

    async def reaches_it(end):
        await chat.new_chat.click()
        await expect(chat.questions).to_have_count(0)
        await chat.ask("What is it?")
        await expect(chat.answers.last).to_contain_text("It is")
        count = len(left_at)
        await end()
        ended_at = time.monotonic()  # a busy browser may take long to click
        await until(lambda: len(left_at) > count)
        assert left_at[-1] - ended_at < 2

    with model_server() as (url, left_at):
        await connect(chat, url)
        await reaches_it(chat.stop_button.click)
        await expect(chat.footers.last).to_contain_text("Stopped")
        await reaches_it(lambda: chat.page.reload(wait_until="commit"))
        await chat.loaded()
        await connect(chat, url)
        await reaches_it(chat.page.close)
