"""What a visitor meets: an answer with its reasoning, Stop, a reload."""

from __future__ import annotations

import pytest
from playwright.async_api import Page, expect

from tests.browser.conftest import chromium, new_page, page, problems, viewport
from tests.fake_openai import FakeOpenAI, Reply
from tests.processes import ServerProcess

__all__ = ["chromium", "new_page", "page", "problems", "viewport"]
pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]
REPLY = "[[ ## reasoning ## ]]\nSix times seven.\n\n[[ ## answer ## ]]\nIt is 42.\n\n[[ ## completed ## ]]\n"
TURN_MS = 30_000


async def ask(page: Page, question: str) -> None:
    composer = page.locator("#composer textarea")
    await expect(composer).to_be_visible(timeout=TURN_MS)
    await composer.fill(question)
    await composer.press("Enter")


async def test_an_answer_comes_with_its_reasoning_and_stays_after_a_reload(
    page: Page, app: ServerProcess, upstream: FakeOpenAI
) -> None:
    upstream.reply(Reply(text=REPLY, tokens_per_second=5))
    await page.goto(app.url)
    await ask(page, "6 times 7?")
    chat = page.locator("#chat")
    await expect(chat).to_contain_text("Six times seven.", timeout=TURN_MS)  # while it streams: it folds then
    await expect(chat).to_contain_text("It is 42.", timeout=TURN_MS)
    await expect(page.get_by_role("button", name="Send", exact=True)).to_be_visible()
    await page.wait_for_function("Object.values({...localStorage}).join().length > 100")
    await page.reload()
    await expect(chat).to_contain_text("It is 42.", timeout=TURN_MS)


async def test_stop_ends_the_answer_and_the_request_to_the_model(
    page: Page, app: ServerProcess, upstream: FakeOpenAI
) -> None:
    upstream.reply(Reply(text=REPLY.replace("It is 42.", "word " * 3000), tokens_per_second=20))
    await page.goto(app.url)
    await ask(page, "Write on and on")
    await expect(page.locator("#chat")).to_contain_text("word word", timeout=TURN_MS)
    await page.get_by_role("button", name="Stop", exact=True).click()
    await expect(page.get_by_role("button", name="Send", exact=True)).to_be_visible(timeout=5_000)
    upstream.wait_for(lambda: upstream.streams[-1].closed_at is not None)
