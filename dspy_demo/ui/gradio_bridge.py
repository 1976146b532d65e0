"""Every part of Gradio that is not documented and that the page relies on, and what happens without it.

- `Blocks.process_api`: runs an event. Without it Gradio prints a traceback, with the values that came, of
  each event that fails, also of one that a guest made up.
- `Blocks._queue.pending_messages_per_session`: what waits to be sent to a page. Without it a page that takes
  its updates slowly gets every one of them, late.
- `Blocks._queue.sleep_when_free`: the pause between two looks for an event. Without it Gradio looks 1,000
  times in a second (on Windows 20 times), and a page that nobody uses takes 4 % of a core.
- `Blocks.max_threads`, `Blocks.state_session_capacity`: options of `launch`, which a mounted page has none
  of. Without them at most 40 events run at once, and 10,000 loaded pages are kept, of 160 kB and more each.
"""

import logging
import traceback
from typing import Any

import gradio as gr

from dspy_demo.errors import DemoError
from dspy_demo.logs import kinds

log = logging.getLogger(__name__)

#: Seconds that an event may wait until it is seen.
LOOK_S = 0.02


class Page(gr.Blocks):
    """A page whose failing events are one line in the log, with a trace where there is a fault of ours."""

    async def process_api(self, *args: Any, **options: Any) -> Any:
        try:
            return await super().process_api(*args, **options)
        except gr.Error:
            raise
        except Exception as error:
            below = [frame.f_globals for frame, _ in traceback.walk_tb(error.__traceback__)][1:]
            ours = any(module.get("__name__", "").startswith("dspy_demo.") for module in below)
            fault = ours and not isinstance(error, DemoError)
            level = logging.ERROR if fault else logging.WARNING
            log.log(level, "an event of the page failed", exc_info=fault, extra={"cause": kinds(error)})
            raise gr.Error("", print_exception=False) from None


def queue(page: gr.Blocks, *, turns: int) -> None:
    """Queue the events of a page on which so many turns may run at once."""
    page.max_threads = turns + 50  # each drawn turn and each click counts
    page.state_session_capacity = max(200, turns)  # an older page loses only a typed address
    page.queue(default_concurrency_limit=None, max_size=turns * 2)
    if (events := getattr(page, "_queue", None)) is not None:
        events.sleep_when_free = LOOK_S


def delivered(demo: gr.Blocks, request: gr.Request) -> bool:
    """Whether no update of the page of this event waits to be sent; asked while the event runs."""
    queues = getattr(getattr(demo, "_queue", None), "pending_messages_per_session", {})
    waiting = queues.get(str(request.session_hash))
    return waiting is None or bool(waiting.empty())
