"""The line at the composer that says why nothing happened, or what did, with a button that helps."""

from __future__ import annotations

import html
from typing import Any

from gradio.components import Component

#: What a handler gives back: the components that change, and their new values.
Update = dict[Component, Any]
#: What can be clicked in a notice: the name of the action, and its label.
Action = tuple[str, str]

USE_LOCAL: Action = ("use-local", "Use Local")
RESTART_SERVER: Action = ("restart", "Restart server")
#: These two are done by the page itself, see page.js.
SERVE_A_VERSION: Action = ("show-versions", "Serve a version")
RELOAD: Action = ("reload", "Reload")
PUT_BACK: Action = ("put-back", "Undo")


def notice_html(text: str, *actions: Action, wrong: bool = False) -> str:
    """The notice as HTML; empty where there is nothing to say.

    Args:
        wrong: Whether it says why something was refused, which a screen reader reads out at once.
    """
    if not text:
        return ""
    buttons = "".join(
        f'<button type="button" class="b" data-do="{do}">{label}</button>' for do, label in actions
    )
    role = 'class="wrong" role="alert"' if wrong else 'role="status"'
    return f"<p><span {role}>{html.escape(text)}</span> {buttons}</p>"
