"""A running turn as snapshots: every event is folded at once, drawn a few times a second."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

from dspy_demo.chat import ChatService
from dspy_demo.events import TurnRequest
from dspy_demo.programs.spec import ProgramSpec
from dspy_demo.ui.chat.turn_view import TurnView

#: Seconds between two redraws while the machine has time, and at most.
REDRAW_S, REDRAW_MAX_S = 0.1, 0.5
#: How much longer the next pause is for each second that this one ended late: the core is full.
LATE_FACTOR = 4.0


class LiveTurn:
    """Runs a turn of a program and folds it in a task of its own, so that no event waits for the browser.

    `view` is the latest view; `on_end` gets the last one, exactly once, whoever ended the turn.
    """

    def __init__(
        self,
        service: ChatService,
        request: TurnRequest,
        spec: ProgramSpec,
        on_end: Callable[[TurnView], None] = lambda _: None,
    ) -> None:
        inputs = dict(request.inputs)
        shape: dict[str, Any] = {"expected": spec.outputs, "answer_field": spec.answer_field}
        shape |= {"turn_id": request.turn_id, "started_s": time.monotonic()}
        self.view = TurnView(inputs.pop(spec.chat_field), inputs, **shape)
        self._turn = service.turn(request)
        self._on_end = on_end
        self._changed = asyncio.Event()
        self._reader = asyncio.create_task(self._read(), name="turn-reader")

    async def snapshots(self, delivered: Callable[[], bool] = lambda: True) -> AsyncIterator[TurnView]:
        """The view when it has changed and the last one was `delivered`; the last one has ended."""
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

    async def ended(self, timeout_s: float | None = None) -> None:
        """Wait for the end, or that long."""
        await asyncio.wait({self._reader}, timeout=timeout_s)

    async def stop(self) -> None:
        """End the turn: the upstream is closed when this returns."""
        await self._turn.stop()
        await self.ended()

    async def _read(self) -> None:
        try:
            async with self._turn as turn:
                async for event in turn:
                    self.view = self.view.apply(event, time.monotonic())
                    self._changed.set()
        finally:
            view = self.view.stopped(time.monotonic())
            self.view = replace(view, trace_id=view.trace_id or self._turn.trace_id)
            self._on_end(self.view)
            self._changed.set()
