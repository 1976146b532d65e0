"""What a visitor meets: an answer with its reasoning, Stop, a reload."""

import pytest
import pytest_asyncio
from playwright.async_api import expect

from tests.black_box.conftest import REPLY
from tests.browser.conftest import chromium, new_page, problems, viewport

__all__ = ["chromium", "new_page", "problems", "viewport"]
pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]
TURN_MS = 30_000


@pytest_asyncio.fixture(loop_scope="session")
async def page(new_page, app):
    page = await new_page()
    await page.goto(app.url)
    await page.wait_for_function("sessionStorage.length > 0")  # the visitor's chat has been fetched
    return page


async def ask(page, question):
    composer = page.locator("#composer textarea")
    await expect(composer).to_be_visible(timeout=TURN_MS)
    await composer.fill(question)
    await composer.press("Enter")


async def test_an_answer_comes_with_its_reasoning_and_stays_after_a_reload(page, upstream):
    upstream.reply(text=REPLY, tokens_per_second=5)
    await ask(page, "6 times 7?")
    chat = page.locator("#chat")
    await expect(chat).to_contain_text("Six times seven.", timeout=TURN_MS)  # while it streams: it folds then
    await expect(chat).to_contain_text("It is 42.", timeout=TURN_MS)
    await expect(page.get_by_role("button", name="Send", exact=True)).to_be_visible()
    await page.wait_for_function("Object.values({...localStorage}).join().length > 100")
    await page.reload()
    await expect(chat).to_contain_text("It is 42.", timeout=TURN_MS)


async def test_stop_ends_the_answer_and_the_request_to_the_model(page, upstream):
    upstream.reply(text=REPLY.replace("It is 42.", "word " * 3000), tokens_per_second=20)
    await ask(page, "Write on and on")
    await expect(page.locator("#chat")).to_contain_text("word word", timeout=TURN_MS)
    await page.get_by_role("button", name="Stop", exact=True).click()
    await expect(page.get_by_role("button", name="Send", exact=True)).to_be_visible(timeout=5_000)
    upstream.wait_for(lambda: upstream.streams[-1].closed_at is not None)
