"""What DSPy says during one turn, in its order: chunks of the model's replies, and our notes between them.

A `Feed` takes the place of the stream that `dspy.streamify` (3.4.1) puts into ``dspy.settings.send_stream``:
whatever calls a model, also a custom `dspy.LM`, awaits its ``send`` for each chunk. Ours costs a token
nothing but a list's ``append``: what has arrived while the reader was busy is taken at once. `streamify`
wakes its reader for each chunk, through a task group and a memory stream (see the decisions in
ARCHITECTURE.md).
"""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import anyio

#: How far a model may run ahead of a slow reader: as many chunks as in `streamify`.
AHEAD_MAX = 16


class Feed:
    """One turn's chunks and notes. Made and read in one event loop; written from there or any thread."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._items: list[Any] = []
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self._ended = False

    # DSPy's side

    async def send(self, chunk: Any) -> None:
        """Add a chunk; waits while the reader is behind.

        Raises:
            anyio.ClosedResourceError: Nobody reads any more. It ends a program that runs in a thread.
        """
        self.put(chunk)
        while len(self._items) >= AHEAD_MAX and not self._ended:
            self._room.clear()
            await self._room.wait()
        if self._ended:
            raise anyio.ClosedResourceError

    def put(self, item: Any) -> None:
        """Add what must not wait, behind all that was added before."""
        if threading.get_ident() == self._thread:
            self._items.append(item)
            self._changed.set()
        else:
            self._loop.call_soon_threadsafe(self.put, item)

    # The reader's side

    async def take(self) -> list[Any]:
        """All that has come since the last call; empty at the end only."""
        while not self._items and not self._ended:
            self._changed.clear()
            await self._changed.wait()
        items, self._items = self._items, []
        self._room.set()
        return items

    def end(self) -> None:
        """Nothing more will come, or nobody will read it."""
        self._ended = True
        self._changed.set()
        self._room.set()
