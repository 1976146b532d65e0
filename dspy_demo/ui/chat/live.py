"""A running turn as snapshots: every event is folded at once, drawn a few times a second."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

from dspy_demo.chat import Turn
from dspy_demo.errors import DemoError
from dspy_demo.events import failed_from
from dspy_demo.logs import log_failure
from dspy_demo.ui.chat.turn_view import TurnView

log = logging.getLogger(__name__)

#: Seconds between two redraws while the machine has time, and at most.
REDRAW_S, REDRAW_MAX_S = 0.1, 0.5
#: How much longer the next pause is for each second that this one ended late. Then the core is full, and of
#: all that it does for a turn only redraws can be left out.
LATE_FACTOR = 4.0


class LiveTurn:
    """Folds a turn into a view in a task of its own, so that events never wait for the browser.

    Args:
        turn: The turn to run, not yet entered.
        view: Its view before the first event; `view` is the latest one at any time.
        on_end: Gets the last view, exactly once, whoever ended the turn and whoever watches it.
    """

    def __init__(
        self, turn: Turn, view: TurnView, on_end: Callable[[TurnView], None] = lambda _: None
    ) -> None:
        self.view = view
        self._turn = turn
        self._on_end = on_end
        self._changed = asyncio.Event()
        self._reader = asyncio.create_task(self._read(), name="turn-reader")

    async def snapshots(self, delivered: Callable[[], bool] = lambda: True) -> AsyncIterator[TurnView]:
        """The view when it has changed, ten times a second or less often; the last one has ended.

        Args:
            delivered: Whether the last one has been sent to whoever watches; until then there is no next one.
        """
        pause_s = REDRAW_S
        while not self._reader.done():
            await self._changed.wait()
            if self.view.running and delivered():
                self._changed.clear()
                yield self.view
            due = time.monotonic() + pause_s
            await asyncio.wait({self._reader}, timeout=pause_s)
            pause_s = min(REDRAW_S + LATE_FACTOR * max(0.0, time.monotonic() - due), REDRAW_MAX_S)
        yield self.view

    async def ended(self) -> None:
        """Wait until the turn has ended by itself or was stopped, and its last view was handed over."""
        await asyncio.wait({self._reader})

    async def stop(self) -> None:
        """End the turn: the upstream is closed when this returns, and the last snapshot follows."""
        await self._turn.stop()
        await self.ended()

    async def _read(self) -> None:
        try:
            async with self._turn as turn:
                async for event in turn:
                    self.view = self.view.apply(event, time.monotonic())
                    self._changed.set()
        except Exception as error:
            # `Turn` raises nothing; this is a fault of the page, and the visitor must not wait for ever.
            failure = DemoError.of(error)
            failure.error_id = self._turn.request.turn_id
            log_failure(log, "the page failed", failure, turn_id=failure.error_id)
            self.view = self.view.apply(failed_from(failure), time.monotonic())
        finally:
            view = self.view.stopped(time.monotonic())
            self.view = replace(view, trace_id=view.trace_id or self._turn.trace_id)
            self._on_end(self.view)
            self._changed.set()
