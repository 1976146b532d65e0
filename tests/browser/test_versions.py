"""From a chat to a served version and back: a real browser, the real app, MLflow and model servers."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from playwright.async_api import Locator, Page, expect

from tests.browser.chat_page import START_MS, ChatPage, ComparePage
from tests.browser.conftest import NewPage
from tests.browser.test_chat import LONG
from tests.environment import scrubbed
from tests.processes import REPO, ServerProcess, group_of, model_server_of, running_app, wait_until

#: Answers as the demo engine does, and says which code it is.
PROGRAM = '''
import dspy


class Dated(dspy.Module):
    """Reasons, then answers with its day."""

    def __init__(self):
        super().__init__()
        self.think = dspy.ChainOfThought("question -> answer")

    async def aforward(self, question: str):
        thought = await self.think.acall(question=question)
        return dspy.Prediction(reasoning=thought.reasoning, answer=f"{thought.answer} It is day {day}.")


program = Dated()
'''


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("versions")


@pytest.fixture(scope="module")
def app(home: Path) -> Iterator[ServerProcess]:
    """An app whose program was changed after its first version was logged."""
    program, data_dir = home / "dated.py", home / "data"
    program.write_text(PROGRAM.replace("{day}", "one"))
    log = [sys.executable, "app.py", "log", "--program", str(program), "--data-dir", str(data_dir)]
    subprocess.run(log, cwd=REPO, env=scrubbed(os.environ, home), check=True, timeout=120)
    program.write_text(PROGRAM.replace("{day}", "two"))
    tracing = {"DSPY_DEMO_TRACING": "true"}
    with running_app("--program", str(program), data_dir=data_dir, home=home, env=tracing) as server:
        yield server


class Workbench:
    """The sidebar's versions and servers as a visitor sees them."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.result = page.locator("#log-result")
        self.server = page.locator("#server")

    async def log(self, description: str = "", tags: str = "") -> None:
        if not await self.page.locator("#log").is_visible():
            await self.page.get_by_role("button", name="Log this program").click()
        await self.page.get_by_label("Description (optional)").fill(description)
        await self.page.get_by_label("Tags (optional)").fill(tags)
        await self.page.locator("#log").click()

    def row(self, version: int) -> Locator:
        return self.page.locator(f'.version[data-key="models:/dspy-demo/{version}"]')

    async def act(self, version: int, label: str) -> None:
        row = self.row(version)
        if not await row.evaluate("row => row.open"):
            await row.locator("> summary").click()
        await row.locator(".b").filter(has_text=re.compile(f"^{label}$")).click()

    async def is_served(self, version: int) -> None:
        served = [re.compile(rf"^\s*Ready\s*dspy-demo v{version}")]  # and no other one
        await expect(self.server.locator(".server")).to_contain_text(served, timeout=START_MS)


async def test_the_whole_story(new_page: NewPage, app: ServerProcess, home: Path) -> None:
    """One walk, since each start of a model server takes seconds."""
    page = await new_page(viewport={"width": 1440, "height": 1400})
    chat, bench = await ChatPage(page).open(app.url), Workbench(page)
    await log_it(chat, bench)
    await serve_and_compare(chat, bench)
    await replace_the_server_of_a_turn(chat, bench)
    await rate_it(chat, home)
    await manage_versions(bench)
    await lose_the_server(chat, bench, app, home)
    # Load a version back into this process.
    await bench.act(2, "Use here")
    await expect(bench.result).to_contain_text("Now using dspy-demo v2")
    await chat.composer.press("Enter")
    await expect(chat.answers.last).to_contain_text("12")
    await expect(chat.active).to_contain_text("dspy-demo v2")
    await expect(chat.footers.last).to_contain_text("Local")


async def log_it(chat: ChatPage, bench: Workbench) -> None:
    await chat.ask("What is 2 + 2?")
    await chat.done(1)
    await expect(chat.answers.last).to_contain_text("It is day two.")
    await expect(chat.footers.last).to_contain_text("Local")
    await bench.log("The new one", "team=search, tier=2")
    await expect(bench.result).to_contain_text("a new process can load it")
    await expect(bench.result).to_contain_text("Logged dspy-demo v2", timeout=START_MS)
    await expect(bench.page.locator(".version")).to_have_count(2)
    await expect(bench.row(2)).to_contain_text("The new one")
    await expect(bench.row(2)).to_contain_text("team=search")


async def serve_and_compare(chat: ChatPage, bench: Workbench) -> None:
    """Serve the first version, and compare it with the local program: each answers with its own code."""
    await bench.act(1, "Serve")
    await expect(bench.server).to_contain_text("Starting")
    await bench.is_served(1)
    await expect(bench.row(1).locator("summary .dot.ready")).to_be_visible()
    compare = await ComparePage(bench.page).open()
    await compare.choose("right", "Version · dspy-demo v2")
    # Feedback where it was asked, from the first moment on; to stop then gives the question back.
    await compare.ask("What is 12 * 7?")
    await expect(compare.side("right")).to_contain_text("Starting dspy-demo v2")
    await compare.stop_button.click()
    await expect(compare.send_button).to_be_visible()
    await expect(compare.composer).to_have_value("What is 12 * 7?")
    # Both stream, and the difference is marked.
    await compare.choose("right", "Version · dspy-demo v1")
    await compare.composer.press("Enter")
    await compare.done()
    await expect(compare.side("left")).to_contain_text("It is day two.")
    await expect(compare.side("right")).to_contain_text("It is day one.")
    await expect(compare.difference.locator("ins")).to_contain_text(["only right", "one"])
    await bench.page.get_by_role("tab", name="Chat").click()


async def replace_the_server_of_a_turn(chat: ChatPage, bench: Workbench) -> None:
    """Serve the other version while a turn runs on the first: neither it nor the next one fails."""
    await chat.switch("Served")
    await expect(chat.active).to_contain_text("dspy-demo v1")
    await chat.ask(LONG)
    await expect(chat.answers.last.locator(".thought-group")).to_contain_text("arithmetic", timeout=START_MS)
    await expect(chat.footers).to_have_count(1)
    await bench.act(2, "Serve")
    await bench.is_served(2)
    await chat.done(2)
    await expect(chat.answers.last).to_contain_text("It is day one.")
    says = re.compile(r"Served.*dspy-demo v1.*tokens in, .*out.*first token")
    await expect(chat.footers.last).to_contain_text(says)
    await chat.ask("What is 3 + 3?")
    await chat.done(3)
    await expect(chat.page.locator(".turn-error")).to_have_count(0)
    await expect(chat.footers.last).to_contain_text("dspy-demo v2")
    await expect(chat.answers.last).to_contain_text("It is day two.")


async def rate_it(chat: ChatPage, home: Path) -> None:
    """A thumb and a comment go to that turn's trace, where a thread of the app writes them a moment later."""
    await chat.page.get_by_role("button", name="Like", exact=True).last.click()
    await chat.rating.fill("Short and right")
    await chat.page.get_by_role("button", name="Add comment").click()
    await expect(chat.notice).to_contain_text("Thank you")

    def found() -> bool:
        with closing(sqlite3.connect(home / "data" / "mlflow.db")) as database:
            rows = database.execute("SELECT value, rationale FROM assessments").fetchall()
        return rows == [("true", "Short and right")]

    await asyncio.to_thread(wait_until, found, 20, "the rating is in MLflow")


async def manage_versions(bench: Workbench) -> None:
    """Promote, promote another, roll back, undo that. Edit what is said about it."""
    for version in (1, 2):
        await bench.act(version, "Promote")
        await expect(bench.row(version).locator(".champion")).to_be_visible()
    await bench.act(2, "Roll back to 1")
    await expect(bench.row(1).locator(".champion")).to_be_visible()
    await bench.result.get_by_role("button", name="Undo").click()
    row = bench.row(2)
    await expect(row.locator(".champion")).to_be_visible()
    await bench.act(2, "Edit")
    await row.get_by_label("Description").fill("Better <b>words</b>")
    await row.get_by_label("Tags").fill("tier=1, note=a, b")
    await row.get_by_role("button", name="Save").click()
    await expect(row.locator(".v-body > p")).to_have_text("Better <b>words</b>")
    await expect(row.locator(".v-tags span")).to_have_text(["note=a, b", "tier=1"])


async def lose_the_server(chat: ChatPage, bench: Workbench, app: ServerProcess, home: Path) -> None:
    """A hung server and a lost one are seen; one click brings it back, and no question is lost."""
    # Hung: said within the 5 s for which an answer is kept and the 2 s that the next one may take.
    server = model_server_of(home / "data", "models:/dspy-demo/2")
    os.kill(server, signal.SIGSTOP)
    await expect(bench.server).to_contain_text("Not answering", timeout=15_000)
    async with httpx.AsyncClient(trust_env=False) as client:
        assert (await client.get(f"{app.url}/ready")).json()["model_server"] == "hung"
        assert 'dspy_demo_model_server{state="hung"} 1.0' in (await client.get(f"{app.url}/metrics")).text
    await chat.composer.fill("What is 5 + 5?")
    await chat.composer.press("Enter")
    await expect(chat.notice).to_contain_text("does not answer")
    os.kill(server, signal.SIGCONT)
    await expect(bench.server).to_contain_text("Ready", timeout=15_000)

    # Lost in the middle of an answer: red within a second.
    await chat.ask(LONG)
    await expect(chat.stop_button).to_be_visible()
    os.kill(server, signal.SIGKILL)
    await expect(bench.server.locator(".dot.failed")).to_be_visible()
    await bench.server.get_by_role("button", name="Restart").click()
    await expect(bench.server).to_contain_text("Ready", timeout=START_MS)
    assert group_of(server) == set()

    # Stopped: the next question is refused with a way out, and is not lost.
    await bench.server.get_by_role("button", name="Stop").click()
    await expect(bench.server).to_contain_text("Stopped", timeout=START_MS)
    await chat.composer.fill("What is 6 + 6?")
    await chat.composer.press("Enter")
    await chat.notice.get_by_role("button", name="Use Local").click()
    await expect(chat.page.get_by_role("radio", name="Local")).to_be_checked()
    await expect(chat.composer).to_have_value("What is 6 + 6?")
