"""Sharing and downloading in the page, and what axe-core finds there."""

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import expect

from dspy_demo.lm.local.runtime import runtime_installed
from tests import stand_in_tunnel
from tests.browser.chat_page import START_MS, ChatPage
from tests.browser.conftest import DESKTOP, PHONE


async def test_share_fail_try_again_copy_visit_and_stop(new_page, app):
    stand_in_tunnel.install(app.log_path.parent, "blocked")
    page = await new_page(permissions=["clipboard-read", "clipboard-write"])
    await ChatPage(page).open(app.url)
    await page.get_by_role("button", name="Share", exact=True).click()
    section = page.locator("#share")
    button = section.get_by_role("button", name="Share a public link")
    await button.click()
    await expect(section.get_by_role("alert")).to_contain_text("cannot be reached", timeout=START_MS)
    await section.get_by_text("Log", exact=True).click()
    await expect(section.locator("pre")).to_contain_text("i/o timeout")

    stand_in_tunnel.install(app.log_path.parent)
    await section.get_by_role("button", name="Try again").click()
    await expect(section).to_contain_text("Stop sharing", timeout=START_MS)
    await expect(section.get_by_role("img", name="QR code of the public link")).to_be_in_viewport()
    await section.get_by_role("button", name="Copy link").click()
    await expect(section.get_by_role("button", name="Copied")).to_be_visible()
    url = await section.get_by_role("link").get_attribute("href")
    assert await page.evaluate("navigator.clipboard.readText()") == url
    assert (await page.request.get(url)).ok

    stranger = await new_page()
    await ChatPage(stranger).open(app.url)
    await expect(stranger.locator("#share")).to_have_count(0)
    phone = await page.context.new_page()
    await phone.set_viewport_size(PHONE)
    await ChatPage(phone).open(app.url)
    await phone.get_by_role("button", name="Theme and documentation").click()
    await phone.get_by_role("button", name="Share", exact=True).click()
    await expect(phone.locator("#share")).to_contain_text("Stop sharing")
    await expect(phone.locator("#menu")).to_be_hidden()

    await section.get_by_role("button", name="Stop sharing").click()
    await expect(button).to_be_visible(timeout=START_MS)
    await expect(section.get_by_role("link")).to_have_count(0)
    await expect(phone.locator("#share")).to_contain_text("Share a public link", timeout=START_MS)
    assert (await page.request.get(app.url)).ok


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


async def serious(page):
    """Rules of serious or critical impact that are broken, with the places."""
    broken = (await Axe().run(page)).response["violations"]
    return [(rule["id"], rule["nodes"]) for rule in broken if rule["impact"] in ("serious", "critical")]


@pytest.mark.parametrize(("viewport", "scheme"), [(DESKTOP, "light"), (PHONE, "dark")])
async def test_nothing_serious(new_page, app, scheme):
    chat = await ChatPage(await new_page(color_scheme=scheme)).open(f"{app.url}/?__theme={scheme}")
    assert await serious(chat.page) == []
    await chat.ask("What is 2 + 2?")
    await chat.done()
    await chat.title.click()
    await chat.show_settings()
    await chat.pick("program", "ReAct")
    await chat.pick("model", "Other…")
    assert await serious(chat.page) == []
