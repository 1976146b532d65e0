"""The line at the composer that says why nothing happened, or what did, with a button that helps."""

from __future__ import annotations

import html
from typing import Any

from gradio.components import Component

#: What a handler gives back: the components that change, and their new values.
Update = dict[Component, Any]
#: What can be clicked in a notice: what it does, see `ui.components`, and its label.
Action = tuple[str, str]

USE_LOCAL: Action = ('data-do="use-local"', "Use Local")
RESTART_SERVER: Action = ('data-do="restart"', "Restart server")
SERVE_A_VERSION: Action = ('data-open="versions"', "Serve a version")
RELOAD: Action = ('data-do="reload"', "Reload")  # by the page itself, see page.js
PUT_BACK: Action = ('data-do="put-back"', "Undo")


def notice_html(text: str, *actions: Action, wrong: bool = False) -> str:
    """The notice as HTML; empty where there is nothing to say.

    Args:
        wrong: Whether it says why something was refused, which a screen reader reads out at once.
    """
    if not text:
        return ""
    buttons = "".join(f'<button type="button" class="b" {do}>{label}</button>' for do, label in actions)
    role = 'class="wrong" role="alert"' if wrong else 'role="status"'
    return f"<p><span {role}>{html.escape(text)}</span> {buttons}</p>"
