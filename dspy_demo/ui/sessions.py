"""What is kept for each page that was loaded: what the visitor changed, and no copy of the page itself."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import gradio as gr
from gradio.routes import App
from gradio.state_holder import SessionState, StateHolder


class Sessions(StateHolder):
    """Gradio's sessions without the settings of the components of the page.

    A session of Gradio (6.31, `SessionState`) begins by drawing up the settings of the whole page: 150 kB,
    and 7 ms in which nobody else's token moves on. With each event it draws up those of all that the event
    changed, with the JSON schema of their values: two fifths of what it costs to open a page. They are read
    by deep links alone, which are closed here.
    """

    def __getitem__(self, session_id: str) -> SessionState:
        if session_id not in self.session_data:
            drawn_up = SimpleNamespace(default_config=self.blocks.default_config, blocks={})
            session = self.session_data[session_id] = SessionState(cast(gr.Blocks, drawn_up))
            session.blocks_config.config_for_block = _no_settings
        return super().__getitem__(session_id)


def _no_settings(*_: object) -> dict[str, Any]:
    return {}


def keep_lean_sessions(app: App, capacity: int) -> None:
    """Let the app of a page keep the last `capacity` sessions, each of them lean."""
    page = app.get_blocks()
    page.state_session_capacity = capacity
    app.state_holder = Sessions()
    app.state_holder.set_blocks(page)
