"""The Share section in a real browser, with a stand-in for Gradio's tunnel program."""

from playwright.async_api import expect

from tests import stand_in_tunnel
from tests.browser.chat_page import START_MS, ChatPage
from tests.browser.conftest import PHONE


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
