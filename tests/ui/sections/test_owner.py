"""What only the owner may do: not drawn on the guests' page, and refused where somebody asks all the same."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import gradio as gr
import pytest

from dspy_demo.errors import Forbidden
from dspy_demo.guests.allowance import Allowance
from dspy_demo.ui.components import owner_only, visitor_of
from dspy_demo.ui.page import PageOf, build_page
from tests.services import house, settings_for
from tests.ui.drawn import drawn_page, services_of
from tests.visitors import OWNER, STRANGER, request_of

REFUSED = Forbidden.default_message
THEIRS = request_of(STRANGER)


@pytest.fixture
async def page(data_dir: Path) -> AsyncIterator[PageOf]:
    async with house(settings_for(data_dir)) as home:
        yield drawn_page(home)


def click(do: str) -> gr.EventData:
    return gr.EventData(None, {"do": do, "uri": "models:/dspy-demo/1", "name": "qwen2.5-0.5b-instruct"})


def test_the_owner_is_who_the_middleware_says() -> None:
    owner_only(request_of(OWNER))
    for nobody in (STRANGER, None):
        with pytest.raises(Forbidden):
            owner_only(request_of(nobody))
    assert visitor_of(request_of(None)).role == "guest"


async def test_every_action_is_refused(page: PageOf) -> None:
    """The services behind these sections fail when they are touched."""
    for do in ("serve", "promote", "roll-back", "edit", "load", "open", "refresh"):
        updates = [update async for update in page.versions.act(click(do), {}, THEIRS)]
        assert [REFUSED in update[page.versions.result] for update in updates] == [True], do
    logged = [update async for update in page.versions.log({}, THEIRS)]
    assert REFUSED in logged[0][page.versions.result]
    assert REFUSED in (await page.versions.refresh(THEIRS))[page.versions.list]
    for do in ("stop", "restart", "retry", "dismiss"):
        assert REFUSED in (await page.backend.act(click(do), None, THEIRS))[page.backend.panel], do
    connected = await page.backend.connect("http://169.254.169.254/", THEIRS)
    assert REFUSED in connected[page.backend.panel] and connected[page.backend.connected] is None
    for do in ("download", "cancel", "discard", "use"):
        update = await page.model.act(click(do), "demo/engine", THEIRS)
        assert REFUSED in update[page.model.list] and page.model.picker not in update, do
    for do in ("share", "stop"):
        update = await page.share.act(click(do), THEIRS)
        assert REFUSED in update[page.share.panel], do
    assert page.share.panel not in await page.share.look("", THEIRS)


@pytest.mark.parametrize("shared", [True, False])
async def test_the_guests_page_does_not_have_them(data_dir: Path, shared: bool) -> None:
    settings = settings_for(data_dir)
    async with house(settings) as home:
        guests = Allowance(settings, home.programs.specs(), home.catalog.detection) if shared else None
        page = build_page(services_of(home), guests=guests)
    drawn = {getattr(block, "elem_id", None) for block in page.blocks.values()}
    assert ({"log", "version-list", "compare", "model-list", "share"} <= drawn) is not shared
    called = {fn.fn.__qualname__ for fn in page.fns.values() if fn.fn is not None}
    of_owner = ("VersionsSection", "CompareSection", "ShareSection", "ModelSection.act", "ModelSection.look")
    owned = {name for name in called if name.startswith(of_owner)}
    owned |= called & {"BackendSection.act", "BackendSection.connect"}
    assert bool(owned) is not shared
