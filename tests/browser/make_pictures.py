"""Take the README's pictures from the running app: ``python tests/browser/make_pictures.py``."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # for running this file by its path

from playwright.async_api import Page, async_playwright, expect

from tests.browser.chat_page import START_MS, ChatPage, ComparePage
from tests.browser.conftest import CHROMIUM_ARGS, find_chromium
from tests.browser.test_versions import LONG, PROGRAM, Workbench
from tests.processes import running_app

FOLDER = Path(__file__).parent / "pictures"


async def main() -> None:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=find_chromium(), args=CHROMIUM_ARGS)
        page = await browser.new_page(viewport={"width": 1280, "height": 800}, color_scheme="light")
        with tempfile.TemporaryDirectory() as folder:
            home, tracing = Path(folder), {"DSPY_DEMO_TRACING": "true"}
            polite = PROGRAM.replace("Dated", "Polite").replace("It is day {day}.", "I hope that helps.")
            (home / "polite.py").write_text(polite)
            with running_app(
                "--program", str(home / "polite.py"), data_dir=home / "data", home=home, env=tracing
            ) as app:
                await story(page, app.url)
        await browser.close()


async def story(page: Page, url: str) -> None:
    """The same way as in `test_versions`, with a picture at each stage."""
    chat, bench = await ChatPage(page).open(url), Workbench(page)
    await chat.pick("program", "Chain of thought")
    await chat.ask("What is (2 + 3) * 4 - 6 / 2?")
    await chat.done(1)
    await chat.title().click()
    await page.wait_for_timeout(800)  # Gradio slides a thought open
    await take(page, "chat")

    for version, program in ((1, "Chain of thought"), (2, "Polite")):
        await chat.pick("program", program)
        await bench.log(f"{program} for search", "team=search")
        await expect(bench.result).to_contain_text(f"Logged dspy-demo v{version}", timeout=START_MS)
    await bench.act(2, "Promote")
    await expect(bench.row(2).locator(".champion")).to_be_visible()
    await take(page, "log")

    await bench.act(2, "Serve")
    await bench.is_served(2)
    await chat.switch("Served")
    await chat.ask(LONG)
    await expect(chat.answers.last.locator(".thought-group")).to_contain_text("arithmetic", timeout=START_MS)
    await take(page, "served")
    await chat.done(2)

    compare = await ComparePage(page).open()
    await compare.choose("left", "Version · dspy-demo v1")
    await compare.choose("right", "Served · dspy-demo v2")
    await compare.ask("What is 12 * 7?")
    await compare.done()
    await take(page, "compare")


async def take(page: Page, name: str) -> None:
    await page.screenshot(path=FOLDER / f"{name}.png")


if __name__ == "__main__":
    asyncio.run(main())
