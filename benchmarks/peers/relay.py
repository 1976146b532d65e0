"""The limit: the upstream's server-sent events passed on line by line, and nothing else.

With ``--bytes`` not even the lines are looked for: whatever arrives in one piece is passed on in one piece.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from benchmarks.peers.serve import run

AS_BYTES = "--bytes" in sys.argv


def build(upstream: str) -> Starlette:
    client = httpx.AsyncClient(timeout=60, limits=httpx.Limits(max_connections=None))

    async def relay(question: str) -> AsyncIterator[str | bytes]:
        body = {"model": "fake", "stream": True, "messages": [{"role": "user", "content": question}]}
        async with client.stream("POST", f"{upstream}/chat/completions", json=body) as reply:
            if AS_BYTES:
                async for piece in reply.aiter_raw():
                    yield piece
                return
            async for line in reply.aiter_lines():
                if line:
                    yield line + "\n\n"

    async def stream(request: Request) -> StreamingResponse:
        body: dict[str, Any] = await request.json()
        return StreamingResponse(relay(body["text"]), media_type="text/event-stream")

    return Starlette(routes=[Route("/predict/stream", stream, methods=["POST"])])


if __name__ == "__main__":
    if AS_BYTES:
        sys.argv.remove("--bytes")
    run(build)
