"""Whether a server that runs also answers: a hung one keeps its port, and whoever asks it waits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import httpx

EVERY_S = 2.0
#: So long without an answer, and it is called hung. A machine under load may take some seconds.
HUNG_AFTER_S = 10.0


class Heartbeat:
    """Asks a server now and then, in a task of its own, from `start` until `stop` or the server's end.

    Args:
        is_ours: A look at the answer, for example that it is not another process on the port.
        runs: Whether the process is there; when it is gone there is nothing to ask.
    """

    def __init__(self, url: str, is_ours: Callable[[httpx.Response], bool], runs: Callable[[], bool]) -> None:
        self._url = url
        self._is_ours = is_ours
        self._runs = runs
        self._answered_at = time.monotonic()
        self._task: asyncio.Task[None] | None = None

    @property
    def silent_s(self) -> float:
        """Seconds since the last answer, where that is too long ago; else 0."""
        silent_s = time.monotonic() - self._answered_at
        asking = self._task is not None and not self._task.done()
        return silent_s if asking and silent_s > HUNG_AFTER_S else 0.0

    def start(self) -> None:
        self._answered_at = time.monotonic()
        self._task = asyncio.create_task(self._ask(), name="heartbeat")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _ask(self) -> None:
        async with httpx.AsyncClient(timeout=EVERY_S, trust_env=False) as client:
            while self._runs():
                if await self._answers(client):
                    self._answered_at = time.monotonic()
                await asyncio.sleep(EVERY_S)

    async def _answers(self, client: httpx.AsyncClient) -> bool:
        try:
            reply = await client.get(self._url)
            return reply.status_code == 200 and self._is_ours(reply)
        except (httpx.HTTPError, ValueError, KeyError, TypeError):
            return False
