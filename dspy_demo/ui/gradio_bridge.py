"""Every part of Gradio that is not documented and that the page relies on, and what happens without it.

- `Blocks.process_api`: runs an event. Without it Gradio prints a traceback, with the values that came, of
  each event that fails, also of one that a guest made up.
- `Blocks._queue.pending_messages_per_session`: what waits to be sent to a page. Without it a page that takes
  its updates slowly gets every one of them, late.
- `Blocks.fns`: the events of a page by number, with their names. Without it no event is open to anybody.
- `Blocks.max_threads`, `Blocks.state_session_capacity`: options of `launch`, which a mounted page has none
  of. Without them at most 40 events run at once, and what 10,000 loaded pages have changed is kept.
"""

from __future__ import annotations

import logging
import traceback
from typing import Any

import gradio as gr

from dspy_demo.logs import kinds

log = logging.getLogger(__name__)


class Page(gr.Blocks):
    """A page whose failing events are one line in the log, with a trace where a handler of ours failed."""

    async def process_api(self, *args: Any, **options: Any) -> Any:
        try:
            return await super().process_api(*args, **options)
        except gr.Error:
            raise
        except Exception as error:
            below = error.__traceback__.tb_next if error.__traceback__ else None
            names = (frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(below))
            ours = any(name.startswith("dspy_demo.") for name in names)
            level = logging.ERROR if ours else logging.WARNING
            log.log(level, "an event of the page failed", exc_info=ours, extra={"cause": kinds(error)})
            raise gr.Error("", print_exception=False) from None


def events_of(page: gr.Blocks) -> tuple[list[int], list[str]]:
    """The numbers of a page's events, and the names of those that can be called by name."""
    events: dict[int, Any] = getattr(page, "fns", {})
    return list(events), [fn.api_name for fn in events.values() if isinstance(fn.api_name, str)]


def queue(page: gr.Blocks, *, events: int, sessions: int, waiting: int) -> None:
    """Queue the events of a page: how many run at once and wait, and how many loaded pages are kept."""
    page.max_threads = events
    page.state_session_capacity = sessions
    page.queue(default_concurrency_limit=None, max_size=waiting)


def delivered(demo: gr.Blocks, request: gr.Request) -> bool:
    """Whether no update of the page of this event waits to be sent; asked while the event runs."""
    queues = getattr(getattr(demo, "_queue", None), "pending_messages_per_session", {})
    waiting = queues.get(str(request.session_hash))
    return waiting is None or bool(waiting.empty())
