"""From a chat to a served version and back: a real browser, the real app, MLflow and model servers."""

from __future__ import annotations

import asyncio
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from playwright.async_api import Locator, Page, expect

from tests.browser.chat_page import ChatPage, ComparePage
from tests.browser.conftest import NewPage
from tests.browser.test_chat import LONG
from tests.processes import ServerProcess, running_app, wait_until

#: A model server starts in 2 to 4 s on a quiet machine; MLflow's first database takes as long.
START_MS = 60_000
#: A crash is noticed within 2 s; the rest is for a busy machine.
NOTICED_MS = 8_000
#: Answers as the demo engine does, and adds a sentence: versions of it differ from others in that.
PROGRAM = '''
import dspy


class Polite(dspy.Module):
    """Reasons, then answers with a kind word."""

    def __init__(self):
        super().__init__()
        self.think = dspy.ChainOfThought("question -> answer")

    async def aforward(self, question: str):
        thought = await self.think.acall(question=question)
        return dspy.Prediction(reasoning=thought.reasoning, answer=f"{thought.answer} I hope that helps.")

    def forward(self, question: str):
        thought = self.think(question=question)
        return dspy.Prediction(reasoning=thought.reasoning, answer=f"{thought.answer} I hope that helps.")


program = Polite()
'''


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("versions")


@pytest.fixture(scope="module")
def app(home: Path) -> Iterator[ServerProcess]:
    program = home / "polite.py"
    program.write_text(PROGRAM)
    tracing = {"DSPY_DEMO_TRACING": "true"}
    with running_app("--program", str(program), data_dir=home / "data", home=home, env=tracing) as server:
        yield server


class Workbench:
    """The sidebar's versions and servers as a visitor sees them."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.result = page.locator("#log-result")
        self.server = page.locator("#server")
        self.rows = page.locator(".version")

    async def log(self, description: str = "", tags: str = "") -> None:
        form = self.page.get_by_role("button", name="Log this program")
        if not await self.page.locator("#log").is_visible():
            await form.click()
        await self.page.get_by_label("Description (optional)").fill(description)
        await self.page.get_by_label("Tags (optional)").fill(tags)
        await self.page.locator("#log").click()

    def row(self, version: int) -> Locator:
        return self.page.locator(f'.version[data-key="models:/dspy-demo/{version}"]')

    async def act(self, version: int, label: str | re.Pattern[str]) -> None:
        row = self.row(version)
        if not await row.evaluate("row => row.open"):
            await row.locator("summary").click()
        await row.get_by_role("button", name=label).click()

    async def is_served(self, version: int) -> None:
        await expect(self.server.locator(".server").first).to_contain_text(
            re.compile(rf"^\s*Ready\s*dspy-demo v{version}"), timeout=START_MS
        )
        await expect(self.server.locator(".server")).to_have_count(1)

    async def switch(self, backend: str) -> None:
        await self.page.locator("#backend").get_by_text(backend, exact=True).click()


async def test_the_whole_story(new_page: NewPage, app: ServerProcess, home: Path) -> None:
    page = await new_page(viewport={"width": 1440, "height": 1400})
    chat = await ChatPage(page).open(app.url)
    bench = Workbench(page)

    # Chat with the local program.
    await chat.ask("What is 2 + 2?")
    await chat.done(1)
    await expect(chat.footers.last).to_contain_text("Local")

    # Log it: the first time MLflow's database is made. Then another program.
    await bench.log("The kind one", "team=search, tier=2")
    await expect(bench.result).to_contain_text("Logged dspy-demo v1", timeout=START_MS)
    await expect(bench.row(1)).to_contain_text("The kind one")
    await expect(bench.row(1)).to_contain_text("team=search")
    await chat.pick("program", "Chain of thought")
    await bench.log("The plain one")
    # The click shows at once: a row that can be neither served nor promoted until a new process loaded it.
    checking = page.locator(".version").filter(has_text="checking")
    await expect(checking).to_contain_text("a new process loads it first")
    await expect(checking.get_by_role("button")).to_have_count(0)
    await expect(bench.result).to_contain_text("Logged dspy-demo v2", timeout=START_MS)
    await expect(checking).to_have_count(0)
    await expect(bench.rows).to_have_count(2)
    await expect(bench.rows.first).to_contain_text("dspy-demo v2")

    # Serve the first one, and watch it start.
    await bench.act(1, "Serve")
    await expect(bench.server).to_contain_text("Starting")
    await bench.is_served(1)
    await expect(bench.row(1).locator("summary .dot.ready")).to_be_visible()

    # Switch between two turns of one chat: reasoning streams live from the served version.
    await bench.switch("Served")
    await expect(page.locator("#active")).to_contain_text("dspy-demo v1")
    await chat.ask(LONG)
    await expect(chat.answers.last.locator(".thought-group")).to_contain_text("arithmetic", timeout=START_MS)
    await expect(chat.footers).to_have_count(1)
    await chat.done(2)
    await expect(chat.answers.last).to_contain_text("I hope that helps.")
    await expect(chat.footers.last).to_contain_text(
        re.compile(r"Served.*dspy-demo v1.*tokens in, .*out.*first token")
    )

    # A thumb and a comment go to that turn's trace; changing one's mind changes them.
    await page.get_by_role("button", name="Like", exact=True).last.click()
    await page.get_by_label("Comment on the answer").fill("Short and right")
    await page.get_by_role("button", name="Add comment").click()
    await expect(chat.notice).to_contain_text("Thank you")
    assert await assessment(home) == ("true", "Short and right")
    await page.get_by_role("button", name="Dislike", exact=True).last.click()
    assert await assessment(home, ("false", "Short and right")) == ("false", "Short and right")
    await page.get_by_role("button", name="Close", exact=True).click()

    # Serve the other version while a turn runs on the first: neither that turn nor the next one fails.
    await chat.ask(LONG)
    await bench.act(2, "Serve")
    await bench.is_served(2)
    await chat.done(3)
    await chat.ask("What is 3 + 3?")
    await chat.done(4)
    await expect(page.locator(".turn-error")).to_have_count(0)
    await expect(chat.footers.last).to_contain_text("dspy-demo v2")
    await expect(chat.answers.last).not_to_contain_text("I hope that helps.")

    # Compare the served version with another one: both stream, and the difference is marked.
    compare = await ComparePage(page).open()
    await compare.choose("left", "Served · dspy-demo v2")
    await compare.choose("right", "Version · dspy-demo v1")
    await compare.ask("What is 12 * 7?")
    await compare.done()
    await expect(compare.difference.locator("ins")).to_contain_text(["only right", "I hope that helps."])
    await page.get_by_role("tab", name="Chat").click()

    # Promote, promote another, roll back, undo that.
    await bench.act(1, "Promote")
    await expect(bench.row(1).locator(".champion")).to_be_visible()
    await bench.act(2, "Promote")
    await expect(bench.row(2).locator(".champion")).to_be_visible()
    await bench.act(2, "Roll back to 1")
    await expect(bench.row(1).locator(".champion")).to_be_visible()
    await bench.result.get_by_role("button", name="Undo").click()
    await expect(bench.row(2).locator(".champion")).to_be_visible()

    # Edit what is said about it.
    await bench.act(2, "Edit")
    await bench.row(2).get_by_label("Description").fill("Better <b>words</b>")
    await bench.row(2).get_by_label("Tags").fill("tier=1, note=a, b")
    await bench.row(2).get_by_role("button", name="Save").click()
    await expect(bench.row(2).locator(".v-body > p")).to_have_text("Better <b>words</b>")
    await expect(bench.row(2).locator(".v-tags span")).to_have_text(["note=a, b", "tier=1"])

    # Load one back into this process.
    await bench.act(1, "Use here")
    await expect(bench.result).to_contain_text("Now using dspy-demo v1")
    await bench.switch("Local")
    await expect(page.locator("#active")).to_contain_text("dspy-demo v1")
    await chat.ask("What is 4 + 4?")
    await chat.done(5)
    await expect(chat.answers.last).to_contain_text("I hope that helps.")

    # Stop it: the next question is refused with a way out, and is not lost.
    await bench.switch("Served")
    await bench.server.get_by_role("button", name="Stop").click()
    await expect(bench.server).to_contain_text("Stopped", timeout=START_MS)
    await chat.composer.fill("What is 5 + 5?")
    await chat.composer.press("Enter")
    await chat.notice.get_by_role("button", name="Use Local").click()
    await expect(page.get_by_role("radio", name="Local")).to_be_checked()
    await expect(chat.composer).to_have_value("What is 5 + 5?")


async def assessment(home: Path, wanted: tuple[str, str] | None = None) -> tuple[str, str]:
    """The one rating in the store, which a thread of the app writes a moment later."""

    def found() -> tuple[str, str] | None:
        with closing(sqlite3.connect(home / "data" / "mlflow.db")) as database:
            rows = database.execute("SELECT value, rationale FROM assessments").fetchall()
        assert len(rows) <= 1
        row = rows[0] if rows and rows[0][1] else None
        return row if wanted is None or row == wanted else None

    return await asyncio.to_thread(wait_until, found, 20, "the rating is in MLflow")  # type: ignore[return-value]
