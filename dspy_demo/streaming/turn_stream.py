"""`TurnStream`: what a task of its own, and the threads of that task, put out for one reader."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import Future
from typing import Any, Generic, Self, TypeVar

import anyio

T = TypeVar("T")
#: How far a task may run ahead of a slow reader, in items.
AHEAD_MAX = 16


class TurnStream(Generic[T]):
    """Items in their order, from a task that the stream owns.

    A generator over a connection must be started, iterated and closed by one task, so there is one for it.
    Leaving the stream cancels it and waits until its connections are closed. `put`, `send`, `run` and
    `check_open` may be called from any thread, the rest in the event loop that made it.
    """

    def __init__(self) -> None:
        self._loop, self._thread = asyncio.get_running_loop(), threading.get_ident()
        self._items: list[T] = []
        self._changed, self._room = asyncio.Event(), asyncio.Event()
        self._ended = self._closed = False
        self._main: asyncio.Task[Any] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def start(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run what fills the stream; its end is the end of the stream."""
        self._main = asyncio.create_task(work, name="turn-stream")
        self._main.add_done_callback(lambda _: self._end())
        self._tasks.add(self._main)

    def put(self, item: T) -> None:
        """Add an item. Never waits."""
        if threading.get_ident() == self._thread:
            self._items.append(item)
            self._changed.set()
        else:
            self._loop.call_soon_threadsafe(self.put, item)

    async def send(self, item: T) -> None:
        """Add an item, and wait while the reader is behind; `anyio.ClosedResourceError` after the turn."""
        self.put(item)
        here = threading.get_ident() == self._thread
        while here and len(self._items) >= AHEAD_MAX and not self._ended:
            self._room.clear()
            await self._room.wait()
        if self._ended:
            raise anyio.ClosedResourceError

    def run(self, call: Callable[[], Coroutine[Any, Any, Any]]) -> Future[Any] | None:
        """Make a call of another thread in the turn's event loop; None in that loop's own thread.

        So a model streams to whatever thread asks it, and its call ends with the turn.
        """

        async def owned() -> Any:
            self.check_open()
            task = asyncio.current_task()
            assert task is not None
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            return await call()

        if threading.get_ident() == self._thread:
            return None
        self.check_open()
        return asyncio.run_coroutine_threadsafe(owned(), self._loop)

    def check_open(self) -> None:
        """End a program whose turn is over by a `CancelledError`, which none takes for a failed attempt."""
        if self._ended:
            raise asyncio.CancelledError

    async def __aiter__(self) -> AsyncIterator[T]:
        """The items; after the last one what the work raised, if it did."""
        while items := await self.take():
            while items and not self._closed:
                yield items.pop(0)
        self.result()

    async def take(self) -> list[T]:
        """All that has come since the last call; empty at the end only."""
        while not self._items and not self._ended:
            self._changed.clear()
            await self._changed.wait()
        items, self._items = self._items, []
        self._room.set()
        return items

    def result(self) -> Any:
        """What the work returned, or raised; None where the stream was closed before."""
        return None if self._closed or self._main is None else self._main.result()

    def _end(self) -> None:
        self._ended = True
        self._changed.set()
        self._room.set()

    async def close(self) -> None:
        """Cancel what runs and wait until its connections are closed; from any task, also twice."""
        self._closed = True
        self._end()
        self._items.clear()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
