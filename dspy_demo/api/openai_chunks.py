"""A turn's events as the chunks of a streamed chat completion."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dspy_demo.api.encoding import encode, sse
from dspy_demo.api.openai_problems import error_json
from dspy_demo.api.openai_text import answer_fields, reasoning_of, rendered, says_the_same
from dspy_demo.events import Event, FieldDelta, TurnFailed, TurnFinished, TurnStarted, Usage
from dspy_demo.programs.spec import ProgramSpec

PARAGRAPH = "\n\n"


class Chunks:
    """Draws the events of one turn. A `Status`, also that of a wait in line before the start, is not drawn.

    The answer's deltas are ``content``; all else that streams, intermediate steps and tools too, is
    ``reasoning_content``. A chunk cannot be taken back, so where the final outputs are not what was
    streamed, they follow as a last paragraph: whatever came before, the content ends with the answer.

    Args:
        head: ``id``, ``created`` and ``model`` of every chunk.
        include_usage: Whether a last chunk tells the tokens.
    """

    def __init__(self, spec: ProgramSpec, head: dict[str, Any], *, include_usage: bool) -> None:
        self._spec = spec
        self._head = {**head, "object": "chat.completion.chunk"}
        self._include_usage = include_usage
        # Everything of a token's chunk but the token is the same, so it is encoded once.
        start = b"data: " + encode(self._head)[:-1] + b',"choices":[{"index":0,"delta":{'
        self._content_start = start + b'"content":'
        self._reasoning_start = start + b'"reasoning_content":'
        self._end = b'},"finish_reason":null}]' + (b',"usage":null' if include_usage else b"") + b"}\n\n"
        self._streamed: dict[str, list[str]] = {}
        self._answering = self._reasoning = ("", "")
        self._spoke = False

    def __call__(self, event: Event) -> bytes:
        match event:
            case TurnStarted():
                return self._choice({"role": "assistant", "content": ""})
            case FieldDelta(channel="answer"):
                return self._answer(event)
            case FieldDelta():
                return self._thought(event)
            case TurnFinished():
                return b"".join(self._last(event))
            case TurnFailed():
                return sse(error_json(event))
            case _:
                return b""

    def _answer(self, delta: FieldDelta) -> bytes:
        place = (delta.step, delta.field)
        lead = ""
        if place != self._answering:
            if delta.step != self._answering[0]:
                self._streamed.clear()
            several = len(self._spec.outputs) > 1 or bool(self._streamed)
            lead = (PARAGRAPH if self._spoke else "") + (f"{delta.field}: " if several else "")
            self._answering = place
        self._streamed.setdefault(delta.field, []).append(delta.text)
        return self._content(lead + delta.text)

    def _thought(self, delta: FieldDelta) -> bytes:
        place = (delta.step, delta.field)
        lead = PARAGRAPH if place != self._reasoning and self._reasoning[1] else ""
        self._reasoning = place
        return self._reasoning_start + encode(lead + delta.text) + self._end

    def _content(self, text: str) -> bytes:
        self._spoke = True
        return self._content_start + encode(text) + self._end

    def _last(self, end: TurnFinished) -> Iterator[bytes]:
        reasoning = reasoning_of(end.outputs)
        if reasoning and not self._reasoning[1]:
            yield self._reasoning_start + encode(reasoning) + self._end
        rest = self._unsaid(answer_fields(self._spec, end.outputs))
        if rest:
            yield self._content((PARAGRAPH if self._spoke else "") + rest)
        yield self._choice({}, "stop")
        if self._include_usage:
            yield sse({**self._head, "choices": [], "usage": usage_json(end.usage)})

    def _unsaid(self, fields: dict[str, Any]) -> str:
        """What of the final answer the stream has not said; all of it where the stream said otherwise."""
        streamed = {name: "".join(texts) for name, texts in self._streamed.items()}
        said = {name for name, text in streamed.items() if says_the_same(text, fields.get(name))}
        if len(said) < len(self._streamed):
            return rendered(fields)
        missing = {name: value for name, value in fields.items() if name not in said}
        return rendered(missing, named=len(fields) > 1)

    def _choice(self, delta: dict[str, str], finish_reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        usage = {"usage": None} if self._include_usage else {}
        return sse({**self._head, "choices": [choice], **usage})


def usage_json(usage: Usage) -> dict[str, int]:
    """Tokens, as OpenAI counts them."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
    }
