"""One chat completion in OpenAI's JSON, whole or as the events of a stream."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

from tests.fake_upstream.answers import words
from tests.fake_upstream.replies import Reply


class Completion:
    """The JSON of one completion, whole or as the events of a stream."""

    def __init__(self, body: Mapping[str, Any], reply: Reply, pace: float, tokens: int) -> None:
        self.reply = reply
        self.streaming = bool(body.get("stream"))
        self.reasoning = words(reply.reasoning_content)
        self.content = reply.content_chunks(body, tokens)
        pace = pace if reply.tokens_per_second is None else reply.tokens_per_second
        self.interval_s = reply.delay_s + (1 / pace if pace else 0.0)
        self._model = body.get("model", "fake")
        self._id = f"chatcmpl-{id(self):x}"
        self._created = int(time.time())
        prompt = sum(len(str(m.get("content") or "").split()) for m in body.get("messages", []))
        counts = {"prompt_tokens": prompt, "completion_tokens": len(self.reasoning) + len(self.content)}
        self._usage = dict(reply.usage) if reply.usage is not None else counts
        if self._usage:
            self._usage.setdefault("total_tokens", sum(self._usage.values()))

    def event(self, delta: Mapping[str, Any], finish_reason: str | None = None) -> bytes:
        return self._sse([{"index": 0, "delta": delta, "finish_reason": finish_reason}])

    def last_events(self) -> Iterator[bytes]:
        if calls := self._tool_calls():
            yield self.event({"tool_calls": calls})
        yield self.event({}, self._finish_reason())
        if self._usage:
            yield self._sse([], usage=self._usage)
        yield b"data: [DONE]\n\n"

    def whole(self) -> bytes:
        message: dict[str, Any] = {"role": "assistant", "content": "".join(self.content)}
        if self.reasoning:
            message["reasoning_content"] = "".join(self.reasoning)
        if calls := self._tool_calls():
            message["tool_calls"] = calls
        choice = {"index": 0, "message": message, "finish_reason": self._finish_reason()}
        extra = {"usage": self._usage} if self._usage else {}
        return to_json(self._common("chat.completion") | {"choices": [choice]} | extra)

    def _sse(self, choices: list[Any], **extra: Any) -> bytes:
        return (
            b"data: "
            + to_json(self._common("chat.completion.chunk") | {"choices": choices} | extra)
            + b"\n\n"
        )

    def _common(self, kind: str) -> dict[str, Any]:
        return {"id": self._id, "object": kind, "created": self._created, "model": self._model}

    def _finish_reason(self) -> str:
        return self.reply.finish_reason or ("tool_calls" if self.reply.tool_calls else "stop")

    def _tool_calls(self) -> list[dict[str, Any]]:
        return [
            {
                "index": index,
                "id": f"call_{index}",
                "type": "function",
                "function": {"name": call["name"], "arguments": json.dumps(call["arguments"])},
            }
            for index, call in enumerate(self.reply.tool_calls)
        ]


async def paced(completion: Completion) -> AsyncIterator[tuple[str, str]]:
    """Each token of the reply when it is due, counted from the start, so that the pace does not drift."""
    loop = asyncio.get_running_loop()
    due = loop.time() + completion.reply.first_delay_s
    tokens = [("reasoning_content", text) for text in completion.reasoning]
    tokens += [("content", text) for text in completion.content]
    for token in tokens:
        if (wait_s := due - loop.time()) > 0:
            await asyncio.sleep(wait_s)
        yield token
        due += completion.interval_s


def to_json(value: object) -> bytes:
    """JSON with its text as raw UTF-8; a lone surrogate becomes the raw byte that it stands for."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogateescape")
