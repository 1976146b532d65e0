"""litellm alone, without DSPy: ``acompletion(stream=True)`` behind a route."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import litellm
import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from benchmarks.peers.serve import run


def build(upstream: str) -> Starlette:
    async def ask(question: str) -> AsyncIterator[bytes]:
        reply = await litellm.acompletion(
            "openai/fake",
            messages=[{"role": "user", "content": question}],
            api_base=upstream,
            api_key="none",
            stream=True,
        )
        async for chunk in reply:
            text = chunk.choices[0].delta.content
            if text:
                yield b"data: " + orjson.dumps({"text": text}) + b"\n\n"

    async def stream(request: Request) -> StreamingResponse:
        body: dict[str, Any] = await request.json()
        return StreamingResponse(ask(body["text"]), media_type="text/event-stream")

    return Starlette(routes=[Route("/predict/stream", stream, methods=["POST"])])


if __name__ == "__main__":
    run(build)
