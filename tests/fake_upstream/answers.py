"""What the fake answers: what a DSPy prompt asks for, in the format of its adapter, as OpenAI's JSON."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any

from tests.fake_upstream.replies import Reply

_seeds = itertools.count(1)
_CHAT_FIELD = re.compile(r"`\[\[ ## (\w+) ## \]\]`")
_JSON_FIELD = re.compile(r"(?:order of fields: |then )`(\w+)`")
_XML_FIELD = re.compile(r"`<(\w+)>`")
_TYPE = re.compile(r"^\d+\. `(\w+)` \((.*?)\):", re.MULTILINE)
_MARKER = re.compile(r"\b[A-Za-z]+-\d+\b")


def default_text(request: Mapping[str, Any], *, fields: Mapping[str, Any], filler: int = 0) -> str:
    """A right answer to a DSPy prompt; an echo to any other.

    Each text field says its own name, every marker of the question (a word like ``visitor-123``)
    and a number that no other reply has, so that a test can tell whose text it got.
    """
    messages = request.get("messages") or [{}]
    prompt = _plain(messages[-1].get("content"))
    adapter, names = _requested_fields(prompt)
    question = prompt.partition("Respond with ")[0] if names else prompt
    says = " ".join([*dict.fromkeys(_MARKER.findall(question)), f"reply-{next(_seeds)}"])
    padding = " filler" * -(-filler // 7)
    if not names:
        return f"You said: {question.strip()} ({says}){padding}"
    types = dict(_TYPE.findall("\n".join(_plain(m.get("content")) for m in messages)))
    values = {
        name: fields.get(name, _value(name, types.get(name, "str"), f"The {name} for {says}{padding}"))
        for name in names
    }
    return _WRITERS[adapter](values)


def _requested_fields(prompt: str) -> tuple[str, list[str]]:
    reminder = prompt[prompt.rfind("Respond with ") :] if "Respond with " in prompt else ""
    if names := [name for name in _CHAT_FIELD.findall(reminder) if name != "completed"]:
        return "chat", names
    if reminder.startswith("Respond with a JSON object"):
        return "json", _JSON_FIELD.findall(reminder)
    return "xml", _XML_FIELD.findall(reminder.partition(" Use this nested")[0])


def _plain(content: Any) -> str:
    """The text of a message, whose content may be a list of parts."""
    if isinstance(content, list):
        return "\n".join(part.get("text", "") for part in content)
    return content or ""


def _value(name: str, annotation: str, text: str) -> Any:
    """A value of the type that the prompt names; ReAct's next tool is ``finish``."""
    if options := re.findall(r"'([^']*)'", annotation) if annotation.startswith("Literal") else []:
        return "finish" if "finish" in options else options[0]
    for prefix, value in (
        ("str", text),
        ("int", 4),
        ("float", 0.5),
        ("bool", True),
        ("list[str", [text]),
        ("list", []),
        ("dict", {}),
    ):
        if annotation.startswith(prefix):
            return value
    return text


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _xml_field(name: str, value: Any) -> str:
    if isinstance(value, list | Mapping):
        items = value.items() if isinstance(value, Mapping) else [("item", item) for item in value]
        return f"<{name}>{''.join(_xml_field(*item) for item in items)}</{name}>"
    return f"<{name}>\n{_text(value)}\n</{name}>"


_WRITERS: Mapping[str, Any] = {
    "chat": lambda values: "".join(
        [*(f"[[ ## {name} ## ]]\n{_text(value)}\n\n" for name, value in values.items()), _COMPLETED]
    ),
    "json": lambda values: json.dumps(values, ensure_ascii=False, indent=2),
    "xml": lambda values: "\n\n".join(_xml_field(*item) for item in values.items()),
}
_COMPLETED = "[[ ## completed ## ]]\n"


def words(text: str) -> list[str]:
    """Split into word-sized tokens, losing nothing: each begins with the white space before it."""
    return re.findall(r"\s*\S+|\s+\Z", text)


class Completion:
    """The JSON of one chat completion, whole or as the events of a stream."""

    def __init__(self, body: Mapping[str, Any], reply: Reply, pace: float) -> None:
        self.reply = reply
        self.streaming = bool(body.get("stream"))
        self._reasoning, self._content = words(reply.reasoning_content), _chunks(body, reply)
        pace = pace if reply.tokens_per_second is None else reply.tokens_per_second
        self._interval_s = 1 / pace if pace else 0.0
        self._common = {"id": f"chatcmpl-{id(self):x}", "created": 1, "model": body.get("model", "fake")}
        prompt = sum(len(str(m.get("content") or "").split()) for m in body.get("messages", []))
        usage = {"prompt_tokens": prompt, "completion_tokens": len(self._reasoning) + len(self._content)}
        usage = usage if reply.usage is None else dict(reply.usage)
        self._usage = {"usage": {"total_tokens": sum(usage.values())} | usage} if usage else {}
        self._finish_reason = reply.finish_reason or ("tool_calls" if reply.tool_calls else "stop")
        self._calls = [
            {
                "index": index,
                "id": f"call_{index}",
                "type": "function",
                "function": {"name": call["name"], "arguments": json.dumps(call["arguments"])},
            }
            for index, call in enumerate(reply.tool_calls)
        ]

    def event(self, delta: Mapping[str, Any], finish_reason: str | None = None) -> bytes:
        return self._sse(choices=[{"index": 0, "delta": delta, "finish_reason": finish_reason}])

    def last_events(self) -> Iterator[bytes]:
        if self._calls:
            yield self.event({"tool_calls": self._calls})
        yield self.event({}, self._finish_reason)
        if self._usage:
            yield self._sse(choices=[], **self._usage)
        yield b"data: [DONE]\n\n"

    def whole(self) -> bytes:
        message: dict[str, Any] = {"role": "assistant", "content": "".join(self._content)}
        if self._reasoning:
            message["reasoning_content"] = "".join(self._reasoning)
        if self._calls:
            message["tool_calls"] = self._calls
        choice = {"index": 0, "message": message, "finish_reason": self._finish_reason}
        return to_json(self._common | {"object": "chat.completion", "choices": [choice]} | self._usage)

    def _sse(self, **content: Any) -> bytes:
        return b"data: " + to_json(self._common | {"object": "chat.completion.chunk"} | content) + b"\n\n"

    async def tokens(self) -> AsyncIterator[tuple[str, str]]:
        """Each token when it is due, counted from the start, so that the pace does not drift."""
        loop = asyncio.get_running_loop()
        due = loop.time() + self.reply.first_delay_s
        kinds = (("reasoning_content", self._reasoning), ("content", self._content))
        for kind, text in ((kind, text) for kind, texts in kinds for text in texts):
            if (wait_s := due - loop.time()) > 0:
                await asyncio.sleep(wait_s)
            yield kind, text
            due += self._interval_s


def _chunks(body: Mapping[str, Any], reply: Reply) -> list[str]:
    """The content of a reply, as the chunks to send."""
    if reply.chunks is not None:
        return list(reply.chunks)
    text = "" if reply.tool_calls else reply.text
    if text is None:
        text = default_text(body, fields=reply.fields or {}, filler=reply.filler_chars)
    if reply.chunk_chars is None:
        return words(text)
    size = reply.chunk_chars or max(1, len(text))
    return [text[start : start + size] for start in range(0, len(text), size)]


def page(models: Sequence[str], method: str, path: str, asked: Mapping[str, Any]) -> Any:
    """The JSON of the other routes: OpenAI's model list, and what Ollama is recognised by."""
    ollama = {"fake-chat:latest": "completion", "fake-embed:latest": "embedding"}
    match method, path:
        case "GET", "/models":
            return {"object": "list", "data": [{"id": name, "object": "model"} for name in models]}
        case "GET", "/api/tags":
            return {"models": [{"name": name, "capabilities": [can]} for name, can in ollama.items()]}
        case "GET", "/api/version":
            return {"version": "0.0.0-fake"}
        case "POST", "/api/show":
            return {"capabilities": [ollama.get(asked.get("model", ""), "")]}
        case "GET", "":
            return "Ollama is running"
    return None


def to_json(value: object) -> bytes:
    """JSON with its text as raw UTF-8; a lone surrogate becomes the raw byte that it stands for."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogateescape")
