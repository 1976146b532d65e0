"""What only the owner may do: not drawn on a shared page, and refused where somebody asks all the same."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import gradio as gr
import pytest

from dspy_demo.errors import Forbidden
from dspy_demo.serving.model_server import ServerState
from dspy_demo.settings import Settings
from dspy_demo.ui.build import build_page
from dspy_demo.ui.server_panel import ServerHandlers, Serving
from dspy_demo.ui.sidebar import draw_sidebar
from dspy_demo.ui.version_handlers import VersionHandlers
from dspy_demo.ui.workbench import SHARED, Workbench, owner_only
from tests.services import house, settings_for

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
    )


@pytest.fixture
def shared(data_dir: Path) -> Settings:
    return settings_for(data_dir, share=True)


@pytest.fixture
async def handlers(shared: Settings) -> AsyncIterator[VersionHandlers]:
    bench = workbench()
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


def test_the_owner_is_who_has_not_shared_the_app(data_dir: Path, shared: Settings) -> None:
    owner_only(settings_for(data_dir))
    with pytest.raises(Forbidden):
        owner_only(shared)


@pytest.mark.parametrize("do", ACTIONS)
async def test_an_action_on_a_version_is_refused(handlers: VersionHandlers, do: str) -> None:
    updates = [update async for update in handlers.act(event(do=do, uri="models:/dspy-demo/1"), {})]
    assert [update[handlers.panel.result] for update in updates] == [
        f'<p class="wrong" role="alert">{SHARED}</p>'
    ]


async def test_logging_and_listing_are_refused(handlers: VersionHandlers) -> None:
    logged = [update async for update in handlers.log({})]
    assert SHARED in logged[0][handlers.panel.result]
    assert SHARED in (await handlers.refresh())[handlers.panel.list]


@pytest.mark.parametrize("do", ["stop", "restart", "serve", "dismiss"])
async def test_the_server_is_left_alone(handlers: VersionHandlers, do: str) -> None:
    update = await handlers.server.act(event(do=do, uri="models:/dspy-demo/1"), None)
    assert SHARED in update[handlers.server.panel.state]


async def test_no_address_is_asked_for_a_stranger(handlers: VersionHandlers) -> None:
    update = await handlers.server.connect("http://169.254.169.254/")
    assert SHARED in update[handlers.server.panel.state]
    assert update[handlers.server.panel.connected] is None


@pytest.mark.parametrize("share", [True, False])
async def test_a_shared_page_does_not_show_them(data_dir: Path, share: bool) -> None:
    settings = settings_for(data_dir, share=share)
    async with house(settings) as home:
        page = build_page(home.service, home.catalog, settings, workbench())
    drawn = {getattr(block, "elem_id", None) for block in page.blocks.values()}
    assert ({"log", "version-list", "compare"} <= drawn) is not share
