"""The FastAPI app of DSPy's deployment tutorial, with only the repairs that make it run on today's DSPy.

Repaired: a chunk is told apart by not being a prediction; ``Prediction.labels().toDict()`` is gone, so the
fields are taken. The cache is off.
"""

import argparse
from collections.abc import AsyncIterator

import dspy
import orjson
import uvicorn
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from pydantic import BaseModel


class Question(BaseModel):
    text: str


parser = argparse.ArgumentParser()
parser.add_argument("--port", type=int, required=True)
parser.add_argument("--upstream", required=True)
options = parser.parse_args()

app = FastAPI(title="DSPy Program API")
lm = dspy.LM("openai/fake", api_base=options.upstream, api_key="none", cache=False)
dspy.configure(lm=lm, async_max_workers=4)
streaming_program = dspy.streamify(dspy.asyncify(dspy.ChainOfThought("question -> answer")))


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


uvicorn.run(app, host="127.0.0.1", port=options.port, log_level="warning")
