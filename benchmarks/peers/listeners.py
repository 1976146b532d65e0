"""`streamify` with a `StreamListener` for each field: DSPy's own way to tell the fields apart.

A streamified program whose listeners were used streams nothing the second time (3.4.1), so each request makes
its own. ``--threads`` runs the program as `asyncify` does, with as many threads as are asked for here;
without it the program runs in the event loop.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator

import dspy
import orjson
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from benchmarks.peers.serve import run

THREADS = "--threads" in sys.argv
MAX_THREADS = 300


class Question(BaseModel):
    text: str


def build(upstream: str) -> FastAPI:
    app = FastAPI()
    lm = dspy.LM("openai/fake", api_base=upstream, api_key="none", cache=False)
    dspy.configure(lm=lm, async_max_workers=MAX_THREADS, disable_history=True)
    program = dspy.ChainOfThought("question -> answer")

    async def generate(question: str) -> AsyncIterator[bytes]:
        listeners = [dspy.streaming.StreamListener(name) for name in ("reasoning", "answer")]
        streaming = dspy.streamify(program, stream_listeners=listeners, is_async_program=not THREADS)
        async for value in streaming(question=question):
            if isinstance(value, dspy.streaming.StreamResponse):
                data = {"field": value.signature_field_name, "text": value.chunk}
            elif isinstance(value, dspy.Prediction):
                data = {"prediction": dict(value.items())}
            else:
                continue
            yield b"data: " + orjson.dumps(data) + b"\n\n"

    @app.post("/predict/stream")
    async def stream(question: Question) -> StreamingResponse:
        return StreamingResponse(generate(question.text), media_type="text/event-stream")

    return app


if __name__ == "__main__":
    if THREADS:
        sys.argv.remove("--threads")
    run(build)
