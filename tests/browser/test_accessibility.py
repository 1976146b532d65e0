"""axe-core finds nothing serious, in light and dark, on an empty and on a full page."""

from __future__ import annotations

from typing import Any

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Page

from tests.browser.chat_page import ChatPage
from tests.browser.conftest import DESKTOP, PHONE, NewPage
from tests.processes import ServerProcess


async def serious(page: Page) -> list[tuple[str, list[Any]]]:
    """Rules of serious or critical impact that are broken, with the places."""
    violations = (await Axe().run(page)).response["violations"]
    return [
        (rule["id"], [(node["target"], node["html"][:200]) for node in rule["nodes"]])
        for rule in violations
        if rule["impact"] in {"serious", "critical"}
    ]


@pytest.mark.parametrize(("viewport", "scheme"), [(DESKTOP, "light"), (PHONE, "dark")])
async def test_nothing_serious(new_page: NewPage, app: ServerProcess, scheme: str) -> None:
    chat = await ChatPage(await new_page(color_scheme=scheme)).open(f"{app.url}/?__theme={scheme}")
    assert await serious(chat.page) == []
    await chat.ask("What is 2 + 2?")
    await chat.done()
    await chat.title().click()
    await chat.show_settings()
    await chat.pick("program", "ReAct")
    await chat.pick("model", "Other…")
    assert await serious(chat.page) == []
