"""The components of the page and where they stand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from dspy_demo.events import LocalTarget
from dspy_demo.programs.spec import ProgramSpec
from dspy_demo.ui.chat.section import Chat
from dspy_demo.ui.chat.widgets import MATH, ChatWidgets
from dspy_demo.ui.compare_view import CompareView, draw_compare
from dspy_demo.ui.sidebar import Sidebar

DEMO_BANNER = "<b>Demo engine</b>: it can calculate and tell the time."
TO_A_REAL_MODEL = " For a real model, download one or choose <b>Other…</b> under Model."
# The browser encrypts with it what only this browser holds; it must be the same after a restart.
BROWSER_SECRET = "dspy-demo-chat-1"  # noqa: S105


@dataclass(frozen=True, slots=True)
class Page:
    """Everything that a handler may read or change.

    Attributes:
        choices: The browser's copy of what was picked in the sidebar.
        owner: Whether it is the owner's page; the guests' one has no controls of the owner.
    """

    sidebar: Sidebar
    chat: ChatWidgets
    banner: gr.HTML
    new_chat: gr.Button
    choices: gr.BrowserState
    compare: CompareView | None
    owner: bool = False

    @property
    def quiet(self) -> dict[str, Any]:
        """What each event of the page is told: only the page may call it by name, and it draws no progress.

        Gradio does not enforce the first (the route by index stays open), so handlers check for themselves.
        Of the second it still tells, at each message of a stream, every component of any event so far, and
        copies all that the browser knows of it (6.31, ``update_loading_stati_state``). So all of them tell
        one, which draws nothing.
        """
        return {"api_visibility": "private", "show_progress": "hidden", "show_progress_on": self.choices}


def draw_page(
    chat: Chat, sidebar: Sidebar, specs: Sequence[ProgramSpec], start: LocalTarget, *, owner: bool = False
) -> Page:
    """Draw what stands beside the sidebar, inside the current `gr.Blocks`."""
    choices = gr.BrowserState(None, storage_key="dspy-demo-choices", secret=BROWSER_SECRET)
    compare = None
    with gr.Column(elem_id="main", elem_classes="" if owner else "one-view"):
        with gr.Row(elem_id="topbar"):
            new_chat = gr.Button("New chat", elem_id="new-chat", size="sm", min_width=0, scale=0)
        views = gr.Tabs(elem_id="views")
        with views, gr.Tab("Chat", id="chat"):
            hint = TO_A_REAL_MODEL if owner else ""
            banner = gr.HTML(DEMO_BANNER + hint, visible=sidebar.detection.demo, elem_id="banner")
            chat.draw(specs, start)
        if owner:
            with views, gr.Tab("Compare", id="compare") as tab:
                compare = draw_compare(tab, MATH)
    return Page(sidebar, chat.widgets, banner, new_chat, choices, compare, owner)
