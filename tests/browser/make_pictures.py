"""Take the README's pictures from the running app: ``python -m tests.browser.make_pictures``."""

import asyncio
import tempfile
from pathlib import Path

from tests.browser.chat_page import ChatPage
from tests.browser.conftest import DESKTOP, launched_chromium
from tests.browser.test_versions import Workbench, app_with_polite, log_two, serve_and_compare

FOLDER = Path(__file__).parent / "pictures"


async def main():
    async with launched_chromium() as browser:
        page = await browser.new_page(viewport=DESKTOP, color_scheme="light")
        with tempfile.TemporaryDirectory() as folder, app_with_polite(Path(folder)) as app:
            chat, bench = await ChatPage(page).open(app.url), Workbench(page)
            await chat.pick("program", "Chain of thought")
            await chat.ask_each("What is (2 + 3) * 4 - 6 / 2?")
            await chat.title().click()
            await page.wait_for_timeout(800)  # Gradio slides a thought open
            await page.screenshot(path=FOLDER / "chat.png")

            await chat.start_over()
            await chat.pick("program", "Polite")
            await log_two(chat, bench)
            await bench.act(2, "Promote")
            await bench.is_champion(2)
            await page.screenshot(path=FOLDER / "log.png")

            await serve_and_compare(bench)
            await page.screenshot(path=FOLDER / "compare.png")


if __name__ == "__main__":
    asyncio.run(main())
