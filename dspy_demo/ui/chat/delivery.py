"""Whether a page has taken what was last drawn for it."""

from __future__ import annotations

import gradio as gr
from gradio.context import LocalContext


def delivered(request: gr.Request) -> bool:
    """Whether no update of the page of this event waits to be sent; asked while the event runs.

    Gradio (6.31) keeps what a handler yields in a queue without bound, whose reader falls behind where the
    network is slow or the machine is busy. What is drawn in the meantime is old when it arrives.
    """
    page = LocalContext.blocks.get(None)
    waiting = page._queue.pending_messages_per_session.get(str(request.session_hash)) if page else None
    return waiting is None or waiting.empty()
