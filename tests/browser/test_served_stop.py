"""Stop and a closed tab, counted at the language model behind a served version."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from playwright.async_api import expect

from tests.backends.served_fixtures import ServedWorld, served_session, served_world  # noqa: F401
from tests.browser.chat_page import LEFT_MID_STREAM, TURN_MS, ChatPage
from tests.browser.conftest import NewPage, Problems
from tests.fake_openai import FAULTS, Stream
from tests.processes import ServerProcess, running_app


@pytest.fixture(scope="module")
def app(
    tmp_path_factory: pytest.TempPathFactory,
    served_session: ServedWorld,  # noqa: F811
) -> Iterator[ServerProcess]:
    """An app that was told of a model server elsewhere."""
    home = tmp_path_factory.mktemp("served-stop")
    with running_app("--served-url", served_session.live.url, data_dir=home / "data", home=home) as server:
        yield server


async def served_chat(new_page: NewPage, app: ServerProcess) -> ChatPage:
    page = await new_page()
    chat = await ChatPage(page).open(app.url)
    await page.locator("#backend").get_by_text("Served", exact=True).click()
    await expect(page.locator("#active")).to_contain_text("Served")
    return chat


async def streaming(chat: ChatPage, world: ServedWorld, question: str) -> Stream:
    await chat.ask(question)
    await expect(chat.answers.last.locator(".thought-group")).to_be_visible(timeout=TURN_MS)
    await world.fake.await_for(lambda: world.fake.streams[-1].tokens_sent >= 3)
    return world.fake.streams[-1]


@pytest.mark.parametrize("silent", [False, True], ids=["streaming", "silent"])
@pytest.mark.parametrize("way", ["stop", "close the tab", "reload"])
async def test_ending_a_served_turn_reaches_the_language_model(
    new_page: NewPage,
    app: ServerProcess,
    served_world: ServedWorld,  # noqa: F811
    problems: Problems,
    way: str,
    silent: bool,
) -> None:
    served_world.fake.reply(FAULTS["stall"] if silent else None, tokens_per_second=20, filler_chars=20_000)
    chat = await served_chat(new_page, app)
    stream = await streaming(chat, served_world, f"I am visitor-{way.split()[0]}-{silent}.")
    assert stream.closed_at is None
    if way == "stop":
        await chat.stop_button.click()
    elif way == "close the tab":
        await chat.page.close()
    else:
        problems.allow(LEFT_MID_STREAM)
        await chat.page.reload(wait_until="commit")
    ended_at = time.monotonic()  # a busy browser may take long to click
    await served_world.fake.await_for(lambda: stream.closed_at)
    assert stream.client_left
    assert stream.closed_at is not None
    assert stream.closed_at - ended_at < 2  # the browser's own part of it; see tests/test_clients.py for ours
    if way == "stop":
        await expect(chat.footers.last).to_contain_text("Stopped")
