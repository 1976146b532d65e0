"""`gr.ChatInterface` with an async client, the usual way to a chat page; with ``--empty`` an empty app.

Nothing on the page limits it: no queue in front of the streams, as many as come.
"""

import argparse
import importlib
import json
import threading
from collections.abc import AsyncIterator
from typing import Any

import gradio as gr
import httpx


def build(upstream: str) -> gr.Blocks:
    client = httpx.AsyncClient(timeout=60, limits=httpx.Limits(max_connections=None))

    async def answer(message: str, history: list[dict[str, Any]]) -> AsyncIterator[str]:
        body = {"model": "fake", "stream": True, "messages": [{"role": "user", "content": message}]}
        text = ""
        async with client.stream("POST", f"{upstream}/chat/completions", json=body) as reply:
            async for line in reply.aiter_lines():
                if line.startswith("data: {"):
                    for choice in json.loads(line[6:])["choices"]:
                        if more := choice["delta"].get("content"):
                            text += more
                            yield text

    return gr.ChatInterface(answer, concurrency_limit=None, api_name="chat")


def empty() -> gr.Blocks:
    with gr.Blocks() as demo:
        gr.Markdown("Empty")
    return demo


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--upstream", default="")
    parser.add_argument("--empty", action="store_true")
    parser.add_argument("--with-dspy", action="store_true", help="import it once the page is there")
    options = parser.parse_args()
    demo = empty() if options.empty else build(options.upstream)
    demo.queue(default_concurrency_limit=None)
    if options.with_dspy:
        threading.Timer(0.5, importlib.import_module, ["dspy"]).start()
    demo.launch(server_name="127.0.0.1", server_port=options.port, max_threads=300, quiet=True)
