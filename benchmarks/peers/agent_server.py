"""MLflow's `AgentServer` with an async stream function over `streamify`. Tracing is off."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import dspy
import mlflow
from fastapi import FastAPI
from mlflow.genai.agent_server import AgentServer, stream

from benchmarks.peers.serve import run


def build(upstream: str) -> FastAPI:
    mlflow.tracing.disable()
    lm = dspy.LM("openai/fake", api_base=upstream, api_key="none", cache=False)
    dspy.configure(lm=lm, disable_history=True)
    streaming = dspy.streamify(dspy.ChainOfThought("question -> answer"), is_async_program=True)

    @stream()
    async def ask(request: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        async for value in streaming(question=request["text"]):
            if isinstance(value, dspy.Prediction):
                yield {"prediction": dict(value.items())}
            elif text := value.choices[0].delta.get("content"):
                yield {"text": text}

    app: FastAPI = AgentServer().app
    return app


if __name__ == "__main__":
    run(build)
