"""From a chat to a served version and back: a real browser, the real app, MLflow and model servers."""

import asyncio
import os
import re
import signal
import sqlite3
from contextlib import closing

from playwright.async_api import expect

from tests.browser.chat_page import LONG, START_MS, ChatPage
from tests.processes import group_of, model_server_of, wait_until

#: What only the second version shows, which is a ReAct program.
TOOL = "1 tool call"


class Workbench:
    """The sidebar's versions and servers, and the Compare tab, as a visitor sees them."""

    def __init__(self, page):
        self.page = page
        self.result = page.locator("#log-result")
        self.server = page.locator("#server")
        self.both = page.get_by_placeholder("Ask both")
        self.dock = page.locator("#compare-dock")
        self.left, self.right = page.locator("#chat-left"), page.locator("#chat-right")

    async def log(self, description, tags):
        if not await self.page.locator("#log").is_visible():
            await self.page.get_by_role("button", name="Log this program").click()
        await self.page.get_by_label("Description (optional)").fill(description)
        await self.page.get_by_label("Tags (optional)").fill(tags)
        await self.page.locator("#log").click()

    def row(self, version):
        return self.page.locator(f'.version[data-key="models:/dspy-demo/{version}"]')

    async def act(self, version, label):
        row = self.row(version)
        if not await row.evaluate("row => row.open"):
            await row.locator("> summary").click()
        await row.locator(".b").filter(has_text=re.compile(f"^{label}$")).click()

    async def is_served(self, version):
        served = [re.compile(rf"^\s*Ready\s*dspy-demo v{version}")]  # and no other one
        await expect(self.server.locator(".server")).to_contain_text(served, timeout=START_MS)

    async def is_champion(self, version):
        await expect(self.row(version).locator(".champion")).to_be_visible()

    async def answer_with(self, side, option):
        await self.page.get_by_label(f"{side} answers with").click()
        await self.page.get_by_role("option", name=option).last.click()


async def test_the_whole_story(new_page, app):
    """One walk, since each start of a model server takes seconds."""
    page = await new_page(viewport={"width": 1440, "height": 1400})
    chat, bench = await ChatPage(page).open(app.url), Workbench(page)
    await log_two(chat, bench)
    await serve_and_compare(bench)
    await replace_the_server_of_a_turn(chat, bench)
    await rate_it(chat, app)
    await manage_versions(bench)
    await lose_the_server(chat, bench, app)
    # Load a version back into this process.
    await bench.act(2, "Use here")
    await expect(bench.result).to_contain_text("Now using dspy-demo v2")
    await chat.composer.press("Enter")
    await expect(chat.answers.last).to_contain_text("12")
    await expect(chat.active).to_contain_text("dspy-demo v2")
    await expect(chat.footers.last).to_contain_text("Local")


async def log_two(chat, bench):
    for version, program in ((1, "Chain of thought"), (2, "ReAct")):
        await chat.pick("program", program)
        await chat.ask("What is 2 + 2?")
        await chat.done(version)
        await expect(chat.footers.last).to_contain_text("Local")
        await bench.log(f"{program} for search", "team=search, tier=2")
        await expect(bench.result).to_contain_text("a new process can load it")
        await expect(bench.result).to_contain_text(f"Logged dspy-demo v{version}", timeout=START_MS)
        await expect(bench.row(version)).to_contain_text(f"{program} for search")
        await expect(bench.row(version)).to_contain_text("team=search")


async def serve_and_compare(bench):
    """Serve the first version, and compare it with the local program: each answers with its own code."""
    await bench.act(1, "Serve")
    await expect(bench.server).to_contain_text("Starting")
    await bench.is_served(1)
    await expect(bench.row(1).locator("summary .dot.ready")).to_be_visible()
    await bench.page.get_by_role("tab", name="Compare").click()
    await bench.answer_with("Right", "Version · dspy-demo v2")
    # Feedback where it was asked, from the first moment on; to stop then gives the question back.
    await bench.both.fill("What is 12 * 7?")
    await bench.both.press("Enter")
    await expect(bench.right).to_contain_text("Starting dspy-demo v2")
    await bench.dock.get_by_role("button", name="Stop", exact=True).click()
    await expect(bench.dock.get_by_role("button", name="Send", exact=True)).to_be_visible()
    await expect(bench.both).to_have_value("What is 12 * 7?")
    # Both stream, and the difference is marked.
    await bench.answer_with("Right", "Version · dspy-demo v1")
    await bench.both.press("Enter")
    for side in (bench.left, bench.right):
        await expect(side.locator(".turn-footer")).to_contain_text("total", timeout=START_MS)
    await expect(bench.left).to_contain_text(TOOL)
    await expect(bench.right).not_to_contain_text(TOOL)
    await expect(bench.page.locator("#difference .diff").first).to_contain_text("only ")


async def replace_the_server_of_a_turn(chat, bench):
    """Serve the other version while a turn runs on the first: neither it nor the next one fails."""
    await bench.page.get_by_role("tab", name="Chat").click()
    await chat.switch("Served")
    await expect(chat.active).to_contain_text("dspy-demo v1")
    await chat.ask(LONG)
    await expect(chat.answers.last.locator(".thought-group")).to_contain_text("arithmetic", timeout=START_MS)
    await expect(chat.footers).to_have_count(2)
    await bench.act(2, "Serve")
    await bench.is_served(2)
    await chat.done(3)
    await expect(chat.answers.last).not_to_contain_text(TOOL)
    says = re.compile(r"Served.*dspy-demo v1.*tokens in, .*out.*first token")
    await expect(chat.footers.last).to_contain_text(says)
    await chat.ask("What is 3 + 3?")
    await chat.done(4)
    await expect(chat.errors).to_have_count(0)
    await expect(chat.footers.last).to_contain_text("dspy-demo v2")
    await expect(chat.answers.last).to_contain_text(TOOL)


async def rate_it(chat, app):
    """A thumb and a comment go to that turn's trace, where a thread of the app writes them a moment later."""
    await chat.page.get_by_role("button", name="Like", exact=True).last.click()
    await chat.rating.fill("Short and right")
    await chat.page.get_by_role("button", name="Add comment").click()
    await expect(chat.notice).to_contain_text("Thank you")

    def found():
        with closing(sqlite3.connect(app.log_path.parent / "data" / "mlflow.db")) as database:
            rows = database.execute("SELECT value, rationale FROM assessments").fetchall()
        return ("true", "Short and right") in rows

    await asyncio.to_thread(wait_until, found, 20, "the rating is in MLflow")


async def manage_versions(bench):
    """Promote, promote another, roll back, undo that. Edit what is said about it."""
    for version in (1, 2):
        await bench.act(version, "Promote")
        await bench.is_champion(version)
    await bench.act(2, "Roll back to 1")
    await bench.is_champion(1)
    await bench.result.get_by_role("button", name="Undo").click()
    await bench.is_champion(2)
    row = bench.row(2)
    await bench.act(2, "Edit")
    await row.get_by_label("Description").fill("Better <b>words</b>")
    await row.get_by_label("Tags").fill("tier=1, note=a, b")
    await row.get_by_role("button", name="Save").click()
    await expect(row.locator(".v-body > p")).to_have_text("Better <b>words</b>")
    await expect(row.locator(".v-tags span")).to_have_text(["note=a, b", "tier=1"])


async def lose_the_server(chat, bench, app):
    """A hung server and a lost one are seen; one click brings it back, and no question is lost."""
    # Hung: said within the 5 s for which an answer is kept and the 2 s that the next one may take.
    server = model_server_of(app.log_path.parent / "data", "models:/dspy-demo/2")
    os.kill(server, signal.SIGSTOP)
    await expect(bench.server).to_contain_text("Not answering", timeout=15_000)
    ready, metrics = [await chat.page.request.get(f"{app.url}/{route}") for route in ("ready", "metrics")]
    assert (await ready.json())["model_server"] == "hung"
    assert 'dspy_demo_model_server{state="hung"} 1.0' in await metrics.text()
    await chat.send("What is 5 + 5?")
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
    await chat.send("What is 6 + 6?")
    await chat.notice.get_by_role("button", name="Use Local").click()
    await expect(chat.page.get_by_role("radio", name="Local")).to_be_checked()
    await expect(chat.composer).to_have_value("What is 6 + 6?")
