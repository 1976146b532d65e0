"""Bodies of requests that are read before the request is passed on, within a size and a time."""

from __future__ import annotations

import asyncio

from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive

from dspy_demo.errors import BodyTooLarge, BodyTooSlow

#: Longest time for a body to arrive, in seconds.
BODY_S = 15.0


async def read_body(receive: Receive, most_bytes: int) -> bytes:
    """The whole body of a request.

    Raises:
        BodyTooLarge: It has more than `most_bytes`; the rest is not read.
        BodyTooSlow: It did not arrive within `BODY_S`.
        ClientDisconnect: The client has gone.
    """
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_S):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect()
                body += message.get("body", b"")
                if len(body) > most_bytes:
                    raise BodyTooLarge(f"The body is larger than the limit of {most_bytes:,} bytes.")
                if not message.get("more_body", False):
                    return bytes(body)
    except TimeoutError:
        raise BodyTooSlow() from None


def replaying(body: bytes, receive: Receive) -> Receive:
    """`receive` for whoever comes next, which begins with a body that was read already."""
    waiting = [body]

    async def replay() -> Message:
        if waiting:
            return {"type": "http.request", "body": waiting.pop(), "more_body": False}
        return await receive()

    return replay
