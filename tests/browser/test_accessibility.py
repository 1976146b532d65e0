"""axe-core finds nothing serious, in light and dark, on an empty and on a full page."""

import pytest
from axe_playwright_python.async_playwright import Axe

from tests.browser.chat_page import ChatPage
from tests.browser.conftest import DESKTOP, PHONE


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
    await chat.title().click()
    await chat.show_settings()
    await chat.pick("program", "ReAct")
    await chat.pick("model", "Other…")
    assert await serious(chat.page) == []
