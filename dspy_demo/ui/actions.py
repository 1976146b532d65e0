"""HTML of our own with real buttons in it: one component and one event for a whole list.

    <button data-do="serve" data-uri="models:/demo/3">      a click gives its data to the handler
    <form data-do="edit" data-uri="...">                    so does a submit, with the form's fields
    <button data-toggle="K"> ... <div data-panel="K">       opens and closes, without asking the server
    <button data-copy="text">                               copies
    <div data-show>                                         is scrolled into sight when it comes after a click

Hundreds of Gradio buttons would each be a component with events of its own; here a redraw changes the
few nodes that differ (gradio 6.31 patches the DOM), and what is open stays open.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import gradio as gr

_SCRIPT = Path(__file__).parent / "assets" / "actions.js"


@cache
def _script() -> str:
    return _SCRIPT.read_text(encoding="utf-8")


def action_html(value: str = "", *, script: str = "", **options: Any) -> gr.HTML:
    """The component; give its ``click`` event a handler that takes `gr.EventData`.

    Args:
        script: JavaScript that runs in it too.
    """
    return gr.HTML(value, js_on_load=_script() + script, elem_classes="own", **options)


def said(event: gr.EventData) -> dict[str, str]:
    """What the clicked element says. It comes from a browser: nothing in it is certain."""
    data = event._data if isinstance(event._data, dict) else {}
    return {str(key): value for key, value in data.items() if isinstance(value, str)}
