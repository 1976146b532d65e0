"""Turns over HTTP: events in the form of a protocol, and the end of a turn when its client hangs up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol

import anyio
from fastapi import Request
from fastapi.responses import Response, StreamingResponse

from dspy_demo.api.asking import Asking
from dspy_demo.events import TURN_ID_HEADER, Event, TurnFailed, TurnFinished, TurnRequest

#: A proxy or a browser gives up on a silent connection after 30 to 60 s.
KEEP_ALIVE_S = 15.0
#: Chunks that wait to be sent, before the turn waits for its reader.
UNSENT_MAX = 16
KEEP_ALIVE = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"
#: nginx and its like would otherwise collect what they pass on.
UNBUFFERED = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


class Encoder(Protocol):
    """Writes the events of one turn in one protocol.

    Attributes:
        ended: Nothing follows what was written last; a turn that still runs is stopped.
    """

    ended: bool

    def encode(self, event: Event) -> bytes:
        """What to send; empty for nothing."""


def event_stream(asked: Asking, turn: TurnRequest, encoder: Encoder) -> StreamingResponse:
    """Run a turn and send each event as it comes, as server-sent events, and comments while it is silent."""
    headers = UNBUFFERED | {TURN_ID_HEADER: turn.turn_id}
    return StreamingResponse(_chunks(asked, turn, encoder), headers=headers, media_type="text/event-stream")


async def _chunks(asked: Asking, request: TurnRequest, encoder: Encoder) -> AsyncIterator[bytes]:
    """The turn runs in a task of its own, so that a comment can be sent while it is waited for.

    A client that hangs up cancels this generator, which stops the turn and waits for its end.
    """
    chunks: asyncio.Queue[bytes] = asyncio.Queue()

    async def run() -> None:
        async with asked.service.turn(request) as turn:
            async for event in turn:
                if chunk := encoder.encode(event):
                    chunks.put_nowait(chunk)
                if encoder.ended:
                    break
                if chunks.qsize() > UNSENT_MAX:
                    await chunks.join()

    running = asyncio.create_task(run(), name="api-turn")
    running.add_done_callback(lambda _: chunks.put_nowait(b""))
    try:
        while True:
            try:
                async with asyncio.timeout(asked.keep_alive_s):
                    chunk = await chunks.get()
            except TimeoutError:
                yield KEEP_ALIVE
                continue
            if not chunk:
                break
            yield chunk
            chunks.task_done()
        running.result()
    finally:
        with anyio.CancelScope(shield=True):
            await _end(running)


async def whole_answer(
    asked: Asking,
    request: Request,
    turn: TurnRequest,
    *,
    finished: Callable[[TurnFinished], Response],
    failed: Callable[[TurnFailed], Response],
) -> Response:
    """Run a turn and answer with its end. If the client hangs up, the turn is stopped and gone.

    While nothing is sent, no response watches the connection. The body of the request must have been read.
    """
    working = asyncio.create_task(asked.service.answer(turn), name="api-turn")
    watching = asyncio.create_task(_hung_up(request), name="api-disconnect")
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            return Response(status_code=499)
        end = working.result()
    finally:
        await _end(working, watching)
    response = finished(end) if isinstance(end, TurnFinished) else failed(end)
    response.headers[TURN_ID_HEADER] = turn.turn_id
    return response


async def _hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _end(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks and wait until they are gone."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
