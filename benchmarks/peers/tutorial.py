"""The FastAPI app of DSPy's deployment tutorial, with only the repairs that make it run on DSPy 3.4.1.

Repaired: the chunk is an `EngineChunk` and no `litellm.ModelResponse`, so it is told apart by not being a
prediction; ``Prediction.labels().toDict()`` is gone, so the fields are taken. The cache is off.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import dspy
import orjson
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from benchmarks.peers.serve import run


class Question(BaseModel):
    text: str


def build(upstream: str) -> FastAPI:
    app = FastAPI(title="DSPy Program API")
    lm = dspy.LM("openai/fake", api_base=upstream, api_key="none", cache=False)
    dspy.configure(lm=lm, async_max_workers=4)
    program = dspy.asyncify(dspy.ChainOfThought("question -> answer"))
    streaming_program = dspy.streamify(program)

    @app.post("/predict/stream")
    async def stream(question: Question) -> StreamingResponse:
        async def generate() -> AsyncIterator[str]:
            async for value in streaming_program(question=question.text):
                if isinstance(value, dspy.Prediction):
                    data = {"prediction": dict(value.items())}
                else:
                    data = {"chunk": value.json()}
                yield f"data: {orjson.dumps(data).decode()}\n\n"
            yield "data: [DONE]\n\n"

        return StreamingResponse(generate(), media_type="text/event-stream")

    return app


if __name__ == "__main__":
    run(build)
