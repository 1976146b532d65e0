"""Take the README's pictures from the running app: ``python -m tests.browser.make_pictures``."""

import asyncio
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.browser.chat_page import ChatPage
from tests.browser.conftest import DESKTOP, launched_chromium
from tests.browser.test_versions import Workbench, log_two, serve_and_compare
from tests.processes import running_app

FOLDER = Path(__file__).parent / "pictures"


async def take_all(page, url):
    chat, bench = await ChatPage(page).open(url), Workbench(page)
    await chat.ask_each("What is (2 + 3) * 4 - 6 / 2?")
    await chat.title.click()
    await page.wait_for_timeout(800)  # Gradio slides a thought open
    await page.screenshot(path=FOLDER / "chat.png")

    await chat.start_over()
    await log_two(chat, bench)
    await bench.act(2, "Promote")
    await bench.is_champion(2)
    await page.screenshot(path=FOLDER / "log.png")

    await serve_and_compare(bench)
    await page.screenshot(path=FOLDER / "compare.png")


async def main():
    with TemporaryDirectory() as home, running_app(data_dir=Path(home, "data"), home=Path(home)) as app:
        async with launched_chromium() as browser:
            await take_all(await browser.new_page(viewport=DESKTOP, color_scheme="light"), app.url)


if __name__ == "__main__":
    asyncio.run(main())
