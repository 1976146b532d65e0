"""Who clicked: the visitor that the guard found for a request of the page."""

from __future__ import annotations

import gradio as gr

from dspy_demo.errors import Forbidden
from dspy_demo.events import GUEST, Visitor


def visitor_of(request: gr.Request) -> Visitor:
    """The visitor behind an event; the one who may do least where nothing is known."""
    visitor = getattr(getattr(request.request, "state", None), "visitor", None)
    return visitor if isinstance(visitor, Visitor) else GUEST


def owner_only(request: gr.Request) -> None:
    """Refuse what only the owner may do. Checked in every such handler: hiding a button protects nothing.

    Raises:
        Forbidden: A guest asks.
    """
    if visitor_of(request).role != "owner":
        raise Forbidden()
