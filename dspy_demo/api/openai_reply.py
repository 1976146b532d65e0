"""A turn as what a chat model says: its reasoning, and one text for an answer in fields."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import orjson

from dspy_demo.api.encoding import encode
from dspy_demo.events import FieldDelta, FinishReason, TurnFinished
from dspy_demo.programs.spec import REASONING_FIELDS, TRACE_FIELDS, ProgramSpec

PARAGRAPH = "\n\n"
#: More text, and which part of a message it belongs to.
Piece = tuple[Literal["content", "reasoning_content"], str]


class Reply:
    """Turns the events of one turn into pieces of a message.

    The answer's deltas are content at once; all else that streams, intermediate steps and tools too, is
    reasoning. What the deltas did not have of the final outputs follows at the end. A delta cannot be taken
    back, so where the final outputs are other than what was streamed, they follow as a last paragraph:
    whatever came before, the content ends with the answer. JSON cannot be mended so; it is sent whole.

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
        self._spec = spec
        self._fields = fields
        self._stop = StopTexts(stop)
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
        reasoning = reasoning_of(end.outputs)
        if reasoning and self._reasoning == ("", ""):
            yield "reasoning_content", reasoning
        if text := self._unstreamed(end.outputs):
            yield from self._content((PARAGRAPH if self._has_content else "") + text)
        yield from self.held()
        self.finish_reason = self.finish_reason or end.finish_reason

    def held(self) -> Iterator[Piece]:
        """What was held back as the possible beginning of a stop text, when nothing follows any more."""
        if text := self._stop.rest():
            yield "content", text

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
        if place[0] != self._answering[0]:
            self._streamed.clear()
        self._answering = place
        several = len(self._spec.outputs) > 1 or bool(self._streamed)
        return (PARAGRAPH if self._has_content else "") + (f"{place[1]}: " if several else "")

    def _content(self, text: str) -> Iterator[Piece]:
        self._has_content = True
        text = self._stop.feed(text)
        if self._stop.found:
            self.finish_reason = "stop"
        if text:
            yield "content", text

    def _unstreamed(self, outputs: Mapping[str, Any]) -> str:
        """What of the final answer is not in the stream; all of it where the stream says otherwise."""
        known = {name: outputs[name] for name in self._spec.outputs if name in outputs}
        others = REASONING_FIELDS | TRACE_FIELDS
        fields = known or {name: value for name, value in outputs.items() if name not in others}
        if self._fields is not None:
            wanted = self._fields or tuple(fields)
            return encode({name: fields[name] for name in wanted if name in fields}).decode()
        shown = fields
        if all(is_the_same(text, fields.get(name)) for name, text in self._streamed.items()):
            shown = {name: value for name, value in fields.items() if name not in self._streamed}
        texts = {name: value_text(value) for name, value in shown.items()}
        named = len(fields) > 1
        return PARAGRAPH.join(f"{name}: {text}" if named else text for name, text in texts.items())


class StopTexts:
    """Lets text through, piece by piece, until one of some texts has come: that one and the rest are kept.

    The last characters wait, as many as could be the beginning of one.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = [text for text in texts if text]
        self.found = False
        self._held = ""
        self._kept = max((len(text) - 1 for text in self.texts), default=0)

    def feed(self, piece: str) -> str:
        """What of the text so far is no part of a stop text."""
        if self.found:
            return ""
        text, self._held = self._held + piece, ""
        places = [place for stop in self.texts if (place := text.find(stop)) >= 0]
        if places:
            self.found = True
            return text[: min(places)]
        cut = max(0, len(text) - self._kept)
        self._held = text[cut:]
        return text[:cut]

    def rest(self) -> str:
        """What is held back, at the end of the text."""
        held, self._held = self._held, ""
        return held


def reasoning_of(outputs: Mapping[str, Any]) -> str:
    """The reasoning of a prediction, or empty."""
    texts = (text for name, text in outputs.items() if name in REASONING_FIELDS)
    return next((text for text in texts if isinstance(text, str) and text), "")


def value_text(value: Any) -> str:
    """Text as it is, anything else as JSON."""
    return value if isinstance(value, str) else encode(value).decode()


def is_the_same(streamed: str, value: Any) -> bool:
    """Whether the text that a model wrote for a field is its final value, apart from the spelling.

    A model writes ``[1, 2]``, ``True`` or ``"4"`` where the value's JSON is ``[1,2]``, ``true`` and ``4``.
    """
    streamed = streamed.strip()
    if streamed in (str(value).strip(), value_text(value)):
        return True
    try:
        return not isinstance(value, str) and bool(orjson.loads(streamed) == value)
    except orjson.JSONDecodeError:
        return False
