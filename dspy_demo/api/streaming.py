"""Turns over HTTP: server-sent events, and the end of a turn when its client goes away."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Coroutine
from typing import Any, Protocol, TypeVar

from fastapi.responses import Response
from starlette.types import Receive, Scope, Send

from dspy_demo.api.encoding import DONE
from dspy_demo.api.turn_ids import turn_id_header
from dspy_demo.chat import ChatService
from dspy_demo.events import Event, TurnRequest

KEEP_ALIVE = b": keep-alive\n\n"

T = TypeVar("T")


async def while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T | None:
    """The result of `work`, or None if the client leaves first; then `work` is cancelled and gone.

    Starlette 1.10 watches for the client only in some of its responses, and under some ASGI versions
    only when something is sent, which never happens while a model is silent. So we watch ourselves.
    The body of the request must have been read.
    """
    working = asyncio.create_task(work, name="api-work")
    watching = asyncio.create_task(_disconnected(receive), name="api-disconnect")
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        await _end(working, watching)


async def _end(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks and wait until they are gone. Whatever they failed with is nobody's to handle."""
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.exception()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class Encoder(Protocol):
    """Writes the events of one turn in the form of one protocol.

    Attributes:
        ended: Nothing follows what was written last; a turn that still runs is not needed any more.
    """

    ended: bool

    def __call__(self, event: Event) -> bytes:
        """What to write for an event; empty bytes for nothing."""


class EventStream(Response):
    """Runs a turn and writes each event as it comes, as server-sent events.

    The turn runs inside the response, so that it cannot outlive its client. ``data: [DONE]`` follows the
    encoder's end only: a stream without it was cut.

    Args:
        keep_alive_s: After so long a silence a comment is sent, so that proxies keep the connection.
    """

    media_type = "text/event-stream"
    # nginx and its like would otherwise collect the tokens before they pass them on.
    extra_headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}  # noqa: RUF012

    def __init__(
        self,
        service: ChatService,
        request: TurnRequest,
        encoder: Encoder,
        *,
        keep_alive_s: float,
        status_code: int = 200,  # FastAPI reads the default for its documentation
    ) -> None:
        self.status_code = status_code
        self.background = None
        self._service = service
        self._request = request
        self._encoder = encoder
        self._keep_alive_s = keep_alive_s
        self._sent_at = 0.0
        self.init_headers(self.extra_headers | turn_id_header(request))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Some servers say that the client is gone by failing to send; it is the same end.
        with contextlib.suppress(OSError):
            await while_connected(receive, self._write(send))

    async def _write(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        keeping_alive = asyncio.create_task(self._keep_alive(send), name="api-keep-alive")
        try:
            async with self._service.turn(self._request) as turn:
                async for event in turn:
                    chunk = self._encoder(event)
                    if self._encoder.ended:
                        chunk += DONE
                    if chunk:
                        await self._send(send, chunk)
                    if self._encoder.ended:
                        break
        finally:
            await _end(keeping_alive)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send(self, send: Send, chunk: bytes) -> None:
        self._sent_at = time.monotonic()
        await send({"type": "http.response.body", "body": chunk, "more_body": True})

    async def _keep_alive(self, send: Send) -> None:
        """Beside the turn rather than around each read of it: no cost per token, nothing to cancel."""
        self._sent_at = time.monotonic()
        while True:
            silent_s = time.monotonic() - self._sent_at
            if silent_s >= self._keep_alive_s:
                silent_s = 0.0
                await self._send(send, KEEP_ALIVE)
            await asyncio.sleep(self._keep_alive_s - silent_s)
