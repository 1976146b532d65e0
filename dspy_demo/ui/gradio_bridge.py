"""Every part of Gradio that is not documented and that the page relies on, and what happens without it.

- `gradio.routes.traceback`, `gradio.queueing.traceback`: Gradio prints a traceback, with the values that
  came, of each event that fails, also of one that a guest made up. Without them those tracebacks are back.
- `Blocks._queue.pending_messages_per_session`: what waits to be sent to a page. Without it a page that takes
  its updates slowly gets every one of them, late.
- `Blocks.fns`: the events of a page by number, with their names. Without it no event is open to anybody.
- `Blocks.max_threads`, `Blocks.state_session_capacity`: options of `launch`, which a mounted page has none
  of. Without them at most 40 events run at once, and what 10,000 loaded pages have changed is kept.
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


def events_of(page: gr.Blocks) -> tuple[list[int], list[str]]:
    """The numbers of a page's events, and the names of those that can be called by name."""
    events: dict[int, Any] = getattr(page, "fns", {})
    return list(events), [fn.api_name for fn in events.values() if isinstance(fn.api_name, str)]


def queue(page: gr.Blocks, *, events: int, sessions: int, waiting: int) -> None:
    """Queue the events of a page.

    Args:
        events: How many run at once.
        sessions: How many loaded pages are kept.
        waiting: How many events wait.
    """
    page.max_threads = events
    page.state_session_capacity = sessions
    page.queue(default_concurrency_limit=None, max_size=waiting)


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
