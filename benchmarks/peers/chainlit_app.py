"""A Chainlit app with an async client, without a data layer; it has no telemetry (2.12).

Nothing is compressed on its socket, as with Chainlit's ``UVICORN_WS_PER_MESSAGE_DEFLATE=false``. Its
configuration and uploads are in the working folder, so that should be an empty one.
"""

from __future__ import annotations

import argparse
import json

import chainlit as cl
import httpx
import uvicorn
from chainlit.config import config
from chainlit.server import app

from benchmarks.past import past_messages


def build(upstream: str) -> None:
    client = httpx.AsyncClient(timeout=60, limits=httpx.Limits(max_connections=None))

    @cl.on_chat_start
    async def begin() -> None:
        """As many messages from before as the page asks for; only with a data layer would it have its own."""
        for role, text in past_messages(int(cl.user_session.get("env").get("MESSAGES", 0))):
            await cl.Message(text, type=f"{role}_message").send()

    @cl.on_message
    async def answer(question: cl.Message) -> None:
        body = {"model": "fake", "stream": True, "messages": [{"role": "user", "content": question.content}]}
        message = cl.Message("")
        async with client.stream("POST", f"{upstream}/chat/completions", json=body) as reply:
            async for line in reply.aiter_lines():
                if line.startswith("data: {"):
                    for choice in json.loads(line[6:])["choices"]:
                        if more := choice["delta"].get("content"):
                            await message.stream_token(more)
        await message.send()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--upstream", required=True)
    options = parser.parse_args()
    build(options.upstream)
    config.run.headless = True  # or it opens a browser
    uvicorn.run(app, host="127.0.0.1", port=options.port, log_level="error", ws_per_message_deflate=False)
