"""DSPy's native engine (lm15) alone, without a program: what a token costs before DSPy handles it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import orjson
from dspy.clients.engines.lm15_engine import AsyncLM15Engine
from dspy.lm15 import Message, Request, RouterConfig, TextDelta
from starlette.applications import Starlette
from starlette.requests import Request as HTTPRequest
from starlette.responses import StreamingResponse
from starlette.routing import Route

from benchmarks.peers.serve import run


def build(upstream: str) -> Starlette:
    engine = AsyncLM15Engine(
        RouterConfig(api_keys={"openai-chat": "none"}, base_urls={"openai-chat": upstream})
    )

    async def ask(question: str) -> AsyncIterator[bytes]:
        request = Request(model="openai/fake", messages=(Message.user(question),))
        async for event in engine.stream(request):
            if event.type == "delta" and isinstance(event.delta, TextDelta):
                yield b"data: " + orjson.dumps({"text": event.delta.text}) + b"\n\n"

    async def stream(request: HTTPRequest) -> StreamingResponse:
        body: dict[str, Any] = await request.json()
        return StreamingResponse(ask(body["text"]), media_type="text/event-stream")

    return Starlette(routes=[Route("/predict/stream", stream, methods=["POST"])])


if __name__ == "__main__":
    run(build)
