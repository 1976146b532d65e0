"""Downloading a model in the page: from the button to the picker, with a stop in between."""

import pytest
from playwright.async_api import expect

from dspy_demo.lm.local.runtime import runtime_installed


@pytest.mark.skipif(not runtime_installed(), reason="a model can be picked where its runtime is installed")
async def test_download_cancel_resume_use(chat, hub):
    page, listed = chat.page, chat.page.locator("#model-list")

    async def says(text):
        await expect(listed).to_contain_text(text, timeout=15_000)

    await says("1 MB · Apache-2.0 · Source")
    await page.get_by_role("button", name="Download Tiny Instruct").click()
    await says("0.4 MB of 1 MB")
    await chat.reload()
    await says("0.4 MB of 1 MB")
    await page.get_by_role("button", name="Cancel Tiny Instruct").click()
    await says("Stopped at 0.4 MB of 1 MB")
    hub.stalls_at = None
    await page.get_by_role("button", name="Resume Tiny Instruct").click()
    await says("On this machine")
    assert hub.ranges[-1] == "bytes=400000-"

    await chat.pick("model", "Tiny Instruct")  # without a reload
    await expect(chat.active).to_contain_text("Tiny Instruct")
    await expect(page.locator("#banner")).to_be_hidden()
    await chat.pick("model", "Demo engine")
    await page.get_by_role("button", name="Use Tiny Instruct").click()
    await expect(chat.active).to_contain_text("Tiny Instruct")
