"""LitServe with an async streaming `LitAPI` over `streamify`, one worker process."""

import argparse
from collections.abc import AsyncIterator
from typing import Any

import litserve


class Program(litserve.LitAPI):
    def __init__(self, upstream: str) -> None:
        super().__init__(stream=True, enable_async=True)
        self._upstream = upstream

    def setup(self, device: str) -> None:
        import dspy

        lm = dspy.LM("openai/fake", api_base=self._upstream, api_key="none", cache=False)
        self._context = {"lm": lm, "disable_history": True}
        self._streaming = dspy.streamify(dspy.ChainOfThought("question -> answer"), is_async_program=True)

    async def decode_request(self, request):  # LitServe makes the route's types of annotations here
        return str(request["text"])

    async def predict(self, question: str) -> AsyncIterator[dict[str, Any]]:
        import dspy

        with dspy.context(**self._context):
            async for value in self._streaming(question=question):
                if isinstance(value, dspy.Prediction):
                    yield {"prediction": dict(value.items())}
                elif text := value.choices[0].delta.get("content"):
                    yield {"text": text}

    async def encode_response(self, values):
        async for value in values:
            yield value


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--upstream", required=True)
    options = parser.parse_args()
    server = litserve.LitServer(
        Program(options.upstream), accelerator="cpu", workers_per_device=1, timeout=False
    )
    server.run(host="127.0.0.1", port=options.port, log_level="warning", generate_client_file=False)
