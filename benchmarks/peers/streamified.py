"""`streamify` without listeners, our own splitters on its chunks: how this app streamed until 2026-11-25."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import dspy
import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from benchmarks.peers.serve import run
from dspy_demo.adapters import prefix_parser


def build(upstream: str) -> Starlette:
    lm = dspy.LM("openai/fake", api_base=upstream, api_key="none", cache=False)
    dspy.configure(lm=lm, disable_history=True)
    streaming = dspy.streamify(dspy.ChainOfThought("question -> answer"), is_async_program=True)

    async def generate(question: str) -> AsyncIterator[bytes]:
        splitter = prefix_parser("chat", ["reasoning", "answer"])
        async for value in streaming(question=question):
            if isinstance(value, dspy.Prediction):
                yield b"data: " + orjson.dumps({"prediction": dict(value.items())}) + b"\n\n"
                continue
            for piece in splitter.feed(value.choices[0].delta.get("content") or ""):
                data = {"field": piece.field, "text": piece.text}
                yield b"data: " + orjson.dumps(data) + b"\n\n"

    async def stream(request: Request) -> StreamingResponse:
        body: dict[str, Any] = await request.json()
        return StreamingResponse(generate(body["text"]), media_type="text/event-stream")

    return Starlette(routes=[Route("/predict/stream", stream, methods=["POST"])])


if __name__ == "__main__":
    run(build)
