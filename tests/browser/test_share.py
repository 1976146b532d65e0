"""The Share section in a real browser, with a stand-in for Gradio's tunnel program."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.async_api import expect

from tests import stand_in_tunnel
from tests.browser.chat_page import ChatPage
from tests.browser.conftest import NewPage
from tests.processes import ServerProcess, running_app
from tests.stand_in_tunnel import SHARE_SERVER

#: A program has to start, on a busy machine.
OPEN_MS = 60_000


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("share")


@pytest.fixture(scope="module")
def program(home: Path) -> Path:
    """The tunnel program of the app, which a test may rewrite."""
    return stand_in_tunnel.install(home / "huggingface", host=None)


@pytest.fixture(scope="module")
def app(home: Path, program: Path) -> Iterator[ServerProcess]:
    env = {"HF_HOME": str(home / "huggingface")}
    with running_app("--share-server", SHARE_SERVER, data_dir=home / "data", home=home, env=env) as server:
        yield server


async def test_share_copy_visit_and_stop(new_page: NewPage, app: ServerProcess) -> None:
    page = await new_page(permissions=["clipboard-read", "clipboard-write"])
    section = await (await ChatPage(page).open(app.url)).share()
    await section.get_by_role("button", name="Share a public link").click()
    await expect(section).to_contain_text("Public", timeout=OPEN_MS)
    link = section.get_by_role("link")
    await expect(section.get_by_role("img", name="QR code of the public link")).to_be_in_viewport()
    await section.get_by_role("button", name="Copy link").click()
    await expect(section.get_by_role("button", name="Copied")).to_be_visible()
    url = await link.get_attribute("href")
    assert url is not None
    assert await page.evaluate("navigator.clipboard.readText()") == url

    assert (await page.request.get(url)).ok

    await section.get_by_role("button", name="Stop sharing").click()
    await expect(section.get_by_role("button", name="Share a public link")).to_be_visible(timeout=OPEN_MS)
    await expect(section.get_by_role("link")).to_have_count(0)
    assert (await page.request.get(app.url)).ok


async def test_a_failure_is_a_sentence_and_can_be_tried_again(
    new_page: NewPage, app: ServerProcess, home: Path, program: Path
) -> None:
    working = program.read_bytes()
    program.write_bytes(stand_in_tunnel.write(home, "blocked").read_bytes())
    page = await new_page()
    section = await (await ChatPage(page).open(app.url)).share()
    await section.get_by_role("button", name="Share a public link").click()
    await expect(section.get_by_role("alert")).to_contain_text("cannot be reached", timeout=OPEN_MS)
    await section.get_by_text("Log", exact=True).click()
    await expect(section.locator("pre")).to_contain_text("i/o timeout")

    program.write_bytes(working)
    await section.get_by_role("button", name="Try again").click()
    await expect(section).to_contain_text("Public", timeout=OPEN_MS)
    stranger = await new_page()
    await ChatPage(stranger).open(app.url)
    await expect(stranger.locator("#share")).to_have_count(0)
    other = await page.context.new_page()
    await ChatPage(other).open(app.url)
    await expect(other.locator("#share")).to_contain_text("Public")
    await section.get_by_role("button", name="Stop sharing").click()
    await expect(other.locator("#share")).to_contain_text("Share a public link", timeout=OPEN_MS)
