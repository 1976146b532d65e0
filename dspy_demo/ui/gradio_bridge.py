"""Inner parts of Gradio that the page relies on (6.31), and what happens without each.

`log_failing_events`: Gradio prints a traceback, with the values that came, of each event that fails, also of
one that a guest made up. Without it those tracebacks are back, and no more harm is done.
"""

from __future__ import annotations

import logging
import sys
import traceback
from typing import Any

import gradio as gr
import gradio.queueing
import gradio.routes

from dspy_demo.logs import kinds

log = logging.getLogger(__name__)


def log_failing_events() -> None:
    """Log a failing event as one line; with its trace only where a handler of ours failed."""
    for module in (gradio.routes, gradio.queueing):
        if getattr(module, "traceback", None) is traceback:
            module.traceback = _Traceback()


def delivered(demo: gr.Blocks, request: gr.Request) -> bool:
    """Whether no update of the page of this event waits to be sent; asked while the event runs."""
    queues = getattr(getattr(demo, "_queue", None), "pending_messages_per_session", {})
    waiting = queues.get(str(request.session_hash))
    return waiting is None or bool(waiting.empty())


class _Traceback:
    """Stands for the module of this name where Gradio handles the failure of an event."""

    def __getattr__(self, name: str) -> Any:
        return getattr(traceback, name)

    def print_exc(self, *_: Any, **__: Any) -> None:
        error = sys.exc_info()[1]
        frames = traceback.walk_tb(error.__traceback__ if error else None)
        ours = any(frame.f_globals.get("__name__", "").startswith("dspy_demo.") for frame, _ in frames)
        level = logging.ERROR if ours else logging.WARNING
        log.log(level, "an event of the page failed", exc_info=ours, extra={"cause": kinds(error)})
