"""The one task that owns a stream.

An async generator over an upstream must be started, iterated and closed by one task: DSPy's
`streamify` (3.4.1) opens a task group inside its generator, and a `break`, an ``aclose()`` or an
exception from another task either leaves the upstream generating or cancels the wrong task.
So a `Pump` gives each stream a task of its own that fills a bounded buffer, and leaving it, for
whatever reason, cancels that task and waits until it is gone.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from types import TracebackType
from typing import Generic, Self, TypeVar

T = TypeVar("T")


class Pump(Generic[T]):
    """Iterate `source` in a task of its own.

        async with Pump(source) as pump:
            async for item in pump: ...

    Args:
        source: The stream. Its owner is the pump from here on.
        buffer_items: How far the source may run ahead of a slow reader before it has to wait.
    """

    def __init__(self, source: AsyncIterator[T], *, buffer_items: int = 256) -> None:
        self._source = source
        self._buffer_items = buffer_items
        self._items: deque[T] = deque()
        self._readable = asyncio.Event()
        self._writable = asyncio.Event()
        self._stopped = False
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name="pump")
        self._task.add_done_callback(lambda _: self._readable.set())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def _run(self) -> None:
        try:
            async for item in self._source:
                while len(self._items) >= self._buffer_items:
                    self._writable.clear()
                    await self._writable.wait()
                self._items.append(item)
                self._readable.set()
        finally:
            if isinstance(self._source, AsyncGenerator):
                await self._source.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        """The next item, in order. After `stop` the end, also with items left in the buffer.

        Raises:
            BaseException: What the source raised, after all its items.
        """
        assert self._task is not None, "enter the pump before reading it"
        while not self._stopped:
            if self._items:
                item = self._items.popleft()
                self._writable.set()
                return item
            if self._task.done():
                self._task.result()
                break
            self._readable.clear()
            await self._readable.wait()
        raise StopAsyncIteration

    async def stop(self) -> None:
        """Cancel the task and wait until the source is closed. Safe to call twice, from any task."""
        self._stopped = True
        self._readable.set()
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait({self._task})
        if self._task is not None and not self._task.cancelled():
            self._task.exception()  # seen: a failure after the reader left is nobody's to handle
