"""The Share section of the owner's sidebar, and what its buttons do."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component

from dspy_demo.errors import DemoError
from dspy_demo.share.state import ShareState
from dspy_demo.share.tunnel import Tunnel
from dspy_demo.ui.actions import action_html, said
from dspy_demo.ui.asker import owner_only
from dspy_demo.ui.share_lines import share_html

Update = dict[Component, Any]

#: Seconds between two looks: while something is under way, while the link is open, and else, since it may be
#: opened in another window or by ``--share``.
LOOK_S = {"opening": 0.5, "closing": 0.5, "open": 2.0, "off": 5.0, "failed": 5.0}


@dataclass(frozen=True, slots=True)
class SharePanel:
    """The widgets of the section."""

    state: gr.HTML
    timer: gr.Timer

    @property
    def outputs(self) -> set[Component]:
        return {self.state, self.timer}


def draw_share_panel() -> SharePanel:
    state = action_html(share_html(ShareState(), 0.0), elem_id="share")
    return SharePanel(state, gr.Timer(LOOK_S["off"]))


@dataclass(frozen=True, slots=True)
class ShareHandlers:
    """Every handler checks for itself who asks: the link and its end are for the owner alone."""

    tunnel: Tunnel
    panel: SharePanel
    clock: Callable[[], float] = time.time

    async def look(self, shown: str, request: gr.Request) -> Update:
        """A tick of the timer, or a page that has just loaded.

        Args:
            shown: What the browser shows, by its own word: replies that overtook each other mend themselves.
        """
        skip: Update = gr.skip()
        try:
            owner_only(request)
        except DemoError:
            return skip
        drawn = self.drawn()
        return skip if drawn[self.panel.state] == shown else drawn

    async def act(self, event: gr.EventData, request: gr.Request) -> Update:
        """One of the buttons."""
        try:
            owner_only(request)
            match said(event).get("do"):
                case "share":
                    self.tunnel.begin()
                case "stop" | "dismiss":
                    await self.tunnel.close()
        except DemoError as error:
            return {self.panel.state: share_html(ShareState(), self.clock(), error.public_message)}
        return self.drawn()

    def drawn(self) -> Update:
        """The panel as it must look now."""
        state = self.tunnel.state()
        return {
            self.panel.state: share_html(state, self.clock()),
            self.panel.timer: gr.Timer(LOOK_S[state.phase]),
        }
