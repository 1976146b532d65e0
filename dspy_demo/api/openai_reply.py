"""A turn as what a chat model says: its reasoning, and one text for an answer in fields."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from dspy_demo.api.encoding import encode
from dspy_demo.events import FieldDelta, FinishReason, TurnFinished
from dspy_demo.programs.spec import REASONING_FIELDS, TRACE_FIELDS, ProgramSpec

PARAGRAPH = "\n\n"
#: More text, and which part of a message it belongs to.
Piece = tuple[Literal["content", "reasoning_content"], str]


class Reply:
    """Turns the events of one turn into pieces of a message.

    The answer's deltas are content at once; all else that streams, intermediate steps and tools too, is
    reasoning. A delta cannot be taken back: where the final outputs are other than what was streamed, they
    follow as a last paragraph, so that the content ends with the answer. JSON is sent whole at the end.

    Args:
        fields: Which fields the content holds as a JSON object; empty for all, None where it is text.
        stop: The content ends before the first of these.

    Attributes:
        finish_reason: Why the reply ended; None while it has not.
    """

    def __init__(
        self, spec: ProgramSpec, *, fields: tuple[str, ...] | None = None, stop: Sequence[str] = ()
    ) -> None:
        self.finish_reason: FinishReason | None = None
        self._spec, self._fields = spec, fields
        self._stop = [text for text in stop if text]
        self._held = ""  # the end of the content, which may begin a stop text
        self._streamed: dict[str, str] = {}
        self._answering = self._reasoning = ("", "")
        self._has_content = False

    def delta(self, event: FieldDelta) -> Iterator[Piece]:
        place = (event.step, event.field)
        if event.channel != "answer":
            lead = PARAGRAPH if self._reasoning not in {place, ("", "")} else ""
            self._reasoning = place
            yield "reasoning_content", lead + event.text
        elif self._fields is None:
            yield from self._content(self._lead(place) + event.text)
            self._streamed[event.field] = self._streamed.get(event.field, "") + event.text

    def rest(self, end: TurnFinished) -> Iterator[Piece]:
        """What of the final outputs was not streamed."""
        texts = (str(text) for name, text in end.outputs.items() if name in REASONING_FIELDS and text)
        if self._reasoning == ("", "") and (reasoning := next(texts, "")):
            yield "reasoning_content", reasoning
        if text := self._unstreamed(end.outputs):
            yield from self._content((PARAGRAPH if self._has_content else "") + text)
        yield from self.held()
        self.finish_reason = self.finish_reason or end.finish_reason

    def held(self) -> Iterator[Piece]:
        """What was held back as the possible beginning of a stop text, when nothing follows any more."""
        if self._held:
            yield "content", self._held
        self._held = ""

    def whole(self, end: TurnFinished) -> dict[str, str]:
        """The parts of a message that is sent at once."""
        parts = {"content": ""}
        for part, text in self.rest(end):
            parts[part] = parts.get(part, "") + text
        return parts

    def _lead(self, place: tuple[str, str]) -> str:
        """What comes before the first text of a field."""
        if place == self._answering:
            return ""
        if place[0] != self._answering[0]:  # the answer of an earlier step was no final one
            self._streamed.clear()
        self._answering = place
        several = len(self._spec.outputs) > 1 or bool(self._streamed)
        return (PARAGRAPH if self._has_content else "") + (f"{place[1]}: " if several else "")

    def _content(self, text: str) -> Iterator[Piece]:
        """More content, up to a stop text."""
        self._has_content = True
        if self.finish_reason:
            return
        text = self._held + text
        ends = [place for stop in self._stop if (place := text.find(stop)) >= 0]
        kept = max((len(stop) - 1 for stop in self._stop), default=0)
        cut = min(ends, default=max(0, len(text) - kept))
        self._held = "" if ends else text[cut:]
        if ends:
            self.finish_reason = "stop"
        if text[:cut]:
            yield "content", text[:cut]

    def _unstreamed(self, outputs: Mapping[str, Any]) -> str:
        """What of the final answer is not in the stream; all of it where the stream says otherwise."""
        others = REASONING_FIELDS | TRACE_FIELDS
        fields = {name: outputs[name] for name in self._spec.outputs if name in outputs}
        fields = fields or {name: value for name, value in outputs.items() if name not in others}
        if self._fields is not None:
            wanted = self._fields or tuple(fields)
            return encode({name: fields[name] for name in wanted if name in fields}).decode()
        shown = fields
        if all(is_the_same(text, fields.get(name)) for name, text in self._streamed.items()):
            shown = {name: value for name, value in fields.items() if name not in self._streamed}
        texts = {name: value_text(value) for name, value in shown.items()}
        named = len(fields) > 1
        return PARAGRAPH.join(f"{name}: {text}" if named else text for name, text in texts.items())


def value_text(value: Any) -> str:
    """Text as it is, anything else as JSON."""
    return value if isinstance(value, str) else encode(value).decode()


def is_the_same(streamed: str, value: Any) -> bool:
    """Whether a field's text is its final value, which a model may write as ``[1, 2]`` or ``True``."""
    if isinstance(value, str):
        return streamed.strip() == value.strip()
    return "".join(streamed.split()) in {"".join(text.split()) for text in (str(value), value_text(value))}
