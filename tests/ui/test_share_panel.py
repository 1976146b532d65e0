"""The Share section's handlers: for the owner alone, and true whatever the browser shows."""

from __future__ import annotations

from typing import Any, cast

import gradio as gr
import pytest

from dspy_demo.errors import Forbidden
from dspy_demo.share.state import ShareState
from dspy_demo.ui.share_lines import share_html
from dspy_demo.ui.share_panel import LOOK_S, ShareHandlers, draw_share_panel
from tests.visitors import OWNER, STRANGER, request_of

REQUEST = request_of(OWNER)
NOW = 1_000.0


class FakeTunnel:
    """Remembers what it was told; the real one is tested in tests/share."""

    def __init__(self) -> None:
        self.now = ShareState()
        self.told: list[str] = []

    def state(self) -> ShareState:
        return self.now

    def begin(self) -> None:
        self.told.append("begin")
        self.now = ShareState("opening", step="Starting")

    async def close(self) -> None:
        self.told.append("close")
        self.now = ShareState()


@pytest.fixture
def tunnel() -> FakeTunnel:
    return FakeTunnel()


def handlers(tunnel: FakeTunnel) -> ShareHandlers:
    with gr.Blocks(analytics_enabled=False):
        panel = draw_share_panel()
    return ShareHandlers(cast(Any, tunnel), panel, clock=lambda: NOW)


def click(do: str) -> gr.EventData:
    return gr.EventData(None, {"do": do})


async def test_share_begins_and_stop_closes(tunnel: FakeTunnel) -> None:
    share = handlers(tunnel)
    drawn = await share.act(click("share"), REQUEST)
    assert drawn[share.panel.state] == share_html(tunnel.now, NOW)
    assert drawn[share.panel.timer].value == LOOK_S["opening"]
    drawn = await share.act(click("stop"), REQUEST)
    assert drawn[share.panel.state] == share_html(ShareState(), NOW)
    await share.act(click("anything"), REQUEST)
    assert tunnel.told == ["begin", "close"]


async def test_a_failure_can_be_put_away(tunnel: FakeTunnel) -> None:
    share = handlers(tunnel)
    tunnel.now = ShareState("failed", reason="It is down.")
    drawn = await share.act(click("dismiss"), REQUEST)
    assert drawn[share.panel.state] == share_html(ShareState(), NOW)


async def test_a_look_mends_what_the_browser_shows(tunnel: FakeTunnel) -> None:
    share = handlers(tunnel)
    off = share_html(ShareState(), NOW)
    assert share.panel.state.value == off, "a fresh page needs no first look"
    assert share.panel.state not in await share.look(off, REQUEST)
    tunnel.now = ShareState("open", url="https://a.gradio.live", since=NOW)
    drawn = await share.look(off, REQUEST)
    assert "a.gradio.live" in drawn[share.panel.state]
    assert share.panel.state not in await share.look(drawn[share.panel.state], REQUEST)


@pytest.mark.parametrize("do", ["share", "stop"])
async def test_a_stranger_moves_and_sees_nothing(tunnel: FakeTunnel, do: str) -> None:
    tunnel.now = ShareState("open", url="https://a.gradio.live", since=NOW)
    share = handlers(tunnel)
    drawn = await share.act(click(do), request_of(STRANGER))
    assert Forbidden.default_message in drawn[share.panel.state]
    assert "gradio.live" not in str(drawn)
    assert "gradio.live" not in str(await share.look("", request_of(STRANGER)))
    assert tunnel.told == []
