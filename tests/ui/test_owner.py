"""What only the owner may do: not drawn on the guests' page, and refused where somebody asks all the same."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import gradio as gr
import pytest

from dspy_demo.errors import Forbidden
from dspy_demo.guests.allowance import Allowance
from dspy_demo.serving.processes import ServerState
from dspy_demo.ui.asker import owner_only, visitor_of
from dspy_demo.ui.build import build_page
from dspy_demo.ui.model_download import ModelHandlers
from dspy_demo.ui.server_panel import ServerHandlers, Serving
from dspy_demo.ui.sidebar import draw_sidebar
from dspy_demo.ui.version_handlers import VersionHandlers
from dspy_demo.ui.workbench import Workbench
from tests.services import house, settings_for
from tests.visitors import OWNER, STRANGER, request_of

REFUSED = Forbidden.default_message
ACTIONS = ["serve", "promote", "roll-back", "edit", "load", "open", "refresh"]


class Forbidding:
    """Stands for services that must not be touched."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} was asked for")


class NoServers(Forbidding):
    def state(self) -> ServerState:
        return ServerState()


def workbench() -> Workbench:
    return Workbench(
        cast(Any, Forbidding()),
        cast(Any, NoServers()),
        cast(Any, Forbidding()),
        cast(Any, SimpleNamespace(url="")),
        cast(Any, Forbidding()),
        cast(Any, Forbidding()),
    )


@pytest.fixture
async def handlers(data_dir: Path) -> AsyncIterator[VersionHandlers]:
    bench, shared = workbench(), settings_for(data_dir)
    async with house(shared) as home:
        with gr.Blocks(analytics_enabled=False):
            side = draw_sidebar(
                home.catalog.detection, home.programs.specs(), home.programs.default, owner=True
            )
        assert side.versions is not None
        server = ServerHandlers(bench, shared, Serving(bench.servers), side.server, side.backend)
        yield VersionHandlers(bench, shared, home.programs, side, side.versions, server)


def event(**data: str) -> gr.EventData:
    return gr.EventData(None, data)


def test_the_owner_is_who_the_guard_says() -> None:
    owner_only(request_of(OWNER))
    for nobody in (STRANGER, None):
        with pytest.raises(Forbidden):
            owner_only(request_of(nobody))
    assert visitor_of(request_of(None)).role == "guest"


@pytest.mark.parametrize("do", ACTIONS)
async def test_an_action_on_a_version_is_refused(handlers: VersionHandlers, do: str) -> None:
    updates = [
        update
        async for update in handlers.act(event(do=do, uri="models:/dspy-demo/1"), {}, request_of(STRANGER))
    ]
    assert [update[handlers.panel.result] for update in updates] == [
        f'<p class="wrong" role="alert">{REFUSED}</p>'
    ]


async def test_logging_and_listing_are_refused(handlers: VersionHandlers) -> None:
    logged = [update async for update in handlers.log({}, request_of(STRANGER))]
    assert REFUSED in logged[0][handlers.panel.result]
    assert REFUSED in (await handlers.refresh(request_of(STRANGER)))[handlers.panel.list]


@pytest.mark.parametrize("do", ["stop", "restart", "serve", "dismiss"])
async def test_the_server_is_left_alone(handlers: VersionHandlers, do: str) -> None:
    update = await handlers.server.act(event(do=do, uri="models:/dspy-demo/1"), None, request_of(STRANGER))
    assert REFUSED in update[handlers.server.panel.state]


@pytest.mark.parametrize("do", ["download", "cancel", "discard", "use"])
async def test_no_model_is_downloaded(handlers: VersionHandlers, do: str) -> None:
    panel = handlers.sidebar.models
    assert panel is not None
    models = ModelHandlers(cast(Any, Forbidding()), handlers.settings, handlers.sidebar, panel)
    asked = event(do=do, name="qwen2.5-0.5b-instruct")
    update = await models.act(asked, "demo/engine", request_of(STRANGER))
    assert REFUSED in update[panel.list]
    assert handlers.sidebar.model not in update


async def test_no_address_is_asked_for_a_stranger(handlers: VersionHandlers) -> None:
    update = await handlers.server.connect("http://169.254.169.254/", request_of(STRANGER))
    assert REFUSED in update[handlers.server.panel.state]
    assert update[handlers.server.panel.connected] is None


@pytest.mark.parametrize("shared", [True, False])
async def test_the_guests_page_does_not_have_them(data_dir: Path, shared: bool) -> None:
    settings = settings_for(data_dir)
    async with house(settings) as home:
        guests = Allowance(settings, home.programs.specs(), home.catalog.detection) if shared else None
        page = build_page(home.service, home.catalog, settings, workbench(), guests=guests)
    drawn = {getattr(block, "elem_id", None) for block in page.blocks.values()}
    assert ({"log", "version-list", "compare", "model-list"} <= drawn) is not shared
    called = {fn.fn.__qualname__ for fn in page.fns.values() if fn.fn is not None}
    owned = {
        name for name in called if name.startswith(("VersionHandlers", "CompareHandlers", "ModelHandlers"))
    }
    owned |= called & {"ServerHandlers.act", "ServerHandlers.connect"}
    assert bool(owned) is not shared
