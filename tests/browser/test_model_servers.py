"""Servers behind the page: a version answers by the code it was logged with, and a lost server is seen."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.async_api import expect

from tests.browser.chat_page import START_MS, ChatPage, ComparePage
from tests.browser.conftest import NewPage
from tests.browser.test_chat import LONG
from tests.browser.test_versions import Workbench
from tests.environment import scrubbed
from tests.processes import REPO, ServerProcess, group_of, model_server_of, running_app, wait_until

#: Says which code it is; asks the model too, so that a turn of it can be slow.
PROGRAM = """
import dspy

class Dated(dspy.Module):
    def __init__(self):
        super().__init__()
        self.think = dspy.ChainOfThought("question -> answer")

    async def aforward(self, question: str):
        thought = await self.think.acall(question=question)
        return dspy.Prediction(answer="I am the code of day {day}. " + thought.answer)

    def forward(self, question: str):
        thought = self.think(question=question)
        return dspy.Prediction(answer="I am the code of day {day}. " + thought.answer)

program = Dated()
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("model-servers")


@pytest.fixture(scope="module")
def app(home: Path) -> Iterator[ServerProcess]:
    """An app whose program was changed after its first version was logged, and logged again."""
    program, flags = home / "dated.py", ("--data-dir", str(home / "data"))
    for day in ("one", "two"):
        program.write_text(PROGRAM.replace("{day}", day))
        log = [sys.executable, "app.py", "log", "--program", str(program), "--name", "demo", *flags]
        subprocess.run(log, cwd=REPO, env=scrubbed(os.environ, home), check=True, timeout=120)
    with running_app("--program", str(program), data_dir=home / "data", home=home) as server:
        yield server


async def test_a_version_answers_by_the_code_that_it_was_logged_with(
    new_page: NewPage, app: ServerProcess, home: Path
) -> None:
    page = await new_page()
    await ChatPage(page).open(app.url)
    compare = await ComparePage(page).open()
    await compare.choose("right", "Version · demo v1")
    await compare.ask("What is 2 + 2?")
    # Feedback where it was asked, from the first moment on.
    await expect(compare.side("right")).to_contain_text("Starting demo v1")
    await expect(compare.stop_button).to_be_visible()
    await compare.done()
    await expect(compare.side("left")).to_contain_text("I am the code of day two.")
    await expect(compare.side("right")).to_contain_text("I am the code of day one.")

    await compare.choose("left", "Version · demo v2")
    await compare.ask("What is 2 + 2?")
    await expect(compare.side("left")).to_contain_text("I am the code of day two.", timeout=START_MS)
    await expect(compare.side("right")).to_contain_text("I am the code of day one.")


async def test_stop_while_a_compared_version_starts_gives_the_question_back(
    new_page: NewPage, app: ServerProcess, home: Path
) -> None:
    page = await new_page()
    await ChatPage(page).open(app.url)
    while left := servers_of(home):  # of the test before: they would answer at once
        os.kill(left[0], signal.SIGKILL)
    compare = await ComparePage(page).open()
    await compare.choose("right", "Version · demo v1")
    await compare.ask("What is 3 + 3?")
    await expect(compare.side("right")).to_contain_text("Starting demo v1")
    await compare.stop_button.click()
    await expect(compare.send_button).to_be_visible()
    await expect(compare.composer).to_have_value("What is 3 + 3?")
    await asyncio.to_thread(wait_until, lambda: not servers_of(home), 20, "the server that was starting ends")


def servers_of(home: Path) -> list[int]:
    try:
        return [model_server_of(home / "data")]
    except AssertionError:
        return []


async def test_a_hung_server_and_a_lost_one_are_seen_and_restarted(
    new_page: NewPage, app: ServerProcess, home: Path
) -> None:
    page = await new_page(viewport={"width": 1440, "height": 1400})
    chat = await ChatPage(page).open(app.url)
    bench = Workbench(page)
    await page.get_by_role("button", name="All versions").click()
    await page.locator('.version[data-key="models:/demo/1"] summary').click()
    await page.locator('.version[data-key="models:/demo/1"]').get_by_role("button", name="Serve").click()
    await expect(bench.server).to_contain_text("Ready", timeout=START_MS)
    await bench.switch("Served")

    # Hung: said within the 5 s for which an answer is kept and the 2 s that the next one may take.
    server = model_server_of(home / "data")
    os.kill(server, signal.SIGSTOP)
    await expect(bench.server).to_contain_text("Not answering", timeout=15_000)
    assert (await ready(app))["model_server"] == "hung"
    assert 'dspy_demo_model_server{state="hung"} 1.0' in await figures(app)
    await chat.composer.fill("What is 5 + 5?")
    await chat.composer.press("Enter")
    await expect(chat.notice).to_contain_text("does not answer any more")
    os.kill(server, signal.SIGCONT)
    await expect(bench.server).to_contain_text("Ready", timeout=15_000)
    assert (await ready(app))["model_server"] == "ready"

    # Lost in the middle of an answer: red within a second, and one click brings it back.
    await chat.ask(LONG)
    await expect(chat.thoughts.first).to_be_visible(timeout=START_MS)
    os.kill(server, signal.SIGKILL)
    begun = time.monotonic()
    await expect(bench.server.locator(".dot.failed")).to_be_visible()
    print(f"seen after {time.monotonic() - begun:.1f} s")
    assert (await ready(app))["model_server"] == "failed"
    await bench.server.get_by_role("button", name="Restart").click()
    await expect(bench.server).to_contain_text("Ready", timeout=START_MS)
    assert group_of(server) == set()


async def ready(app: ServerProcess) -> dict[str, str]:
    async with httpx.AsyncClient(trust_env=False) as client:
        return dict((await client.get(f"{app.url}/ready")).json())


async def figures(app: ServerProcess) -> str:
    async with httpx.AsyncClient(trust_env=False) as client:
        return (await client.get(f"{app.url}/metrics")).text
