"""A turn as what a chat model says: its reasoning, and one text for an answer in fields."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, assert_never

import orjson

from dspy_demo.api.encoding import encode
from dspy_demo.events import Event, FieldDelta, FinishReason, Status, TurnFailed, TurnFinished, TurnStarted
from dspy_demo.programs.spec import REASONING_FIELDS, TRACE_FIELDS, ProgramSpec

PARAGRAPH = "\n\n"
#: More text, and which part of a message it belongs to.
Piece = tuple[Literal["content", "reasoning_content"], str]


class Reply:
    """Reads the events of one turn. A `Status`, also that of a wait in line before the start, is not said.

    The answer's deltas are content at once; all else that streams, intermediate steps and tools too, is
    reasoning. What the deltas have not said of the final outputs follows at the end. A delta cannot be taken
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
        self._streamed: dict[str, list[str]] = {}
        self._answering = self._reasoning = ("", "")
        self._spoke = False

    def hear(self, event: Event) -> Iterator[Piece]:
        """What an event says."""
        match event:
            case FieldDelta(channel="answer"):
                if self._fields is None:
                    yield from self._answer(event)
            case FieldDelta():
                yield from self._thought(event)
            case TurnFinished():
                yield from self._last(event)
            case TurnFailed():
                yield from self._held()
            case TurnStarted() | Status():
                pass
            case _:
                assert_never(event)

    def whole(self, end: TurnFinished) -> dict[str, str]:
        """The parts of a message that nothing was said of yet."""
        self.finish_reason = end.finish_reason
        content = StopTexts(self._stop.texts)
        text = content.feed(self._text(end.outputs))
        if content.found:
            self.finish_reason = "stop"
        return {"content": text + content.rest(), "reasoning_content": reasoning_of(end.outputs)}

    def _answer(self, delta: FieldDelta) -> Iterator[Piece]:
        place = (delta.step, delta.field)
        lead = ""
        if place != self._answering:
            if delta.step != self._answering[0]:
                self._streamed.clear()
            several = len(self._spec.outputs) > 1 or bool(self._streamed)
            lead = (PARAGRAPH if self._spoke else "") + (f"{delta.field}: " if several else "")
            self._answering = place
        self._streamed.setdefault(delta.field, []).append(delta.text)
        yield from self._content(lead + delta.text)

    def _thought(self, delta: FieldDelta) -> Iterator[Piece]:
        place = (delta.step, delta.field)
        lead = PARAGRAPH if place != self._reasoning and self._reasoning[1] else ""
        self._reasoning = place
        yield "reasoning_content", lead + delta.text

    def _content(self, text: str) -> Iterator[Piece]:
        self._spoke = True
        text = self._stop.feed(text)
        if self._stop.found:
            self.finish_reason = "stop"
        if text:
            yield "content", text

    def _last(self, end: TurnFinished) -> Iterator[Piece]:
        reasoning = reasoning_of(end.outputs)
        if reasoning and not self._reasoning[1]:
            yield "reasoning_content", reasoning
        if rest := self._unsaid(end.outputs):
            yield from self._content((PARAGRAPH if self._spoke else "") + rest)
        yield from self._held()
        self.finish_reason = self.finish_reason or end.finish_reason

    def _held(self) -> Iterator[Piece]:
        if held := self._stop.rest():
            yield "content", held

    def _unsaid(self, outputs: Mapping[str, Any]) -> str:
        """What of the final answer the stream has not said; all of it where the stream said otherwise."""
        if not self._streamed:
            return self._text(outputs)
        fields = answer_fields(self._spec, outputs)
        said = {
            name for name, texts in self._streamed.items() if says_the_same("".join(texts), fields.get(name))
        }
        if len(said) < len(self._streamed):
            return rendered(fields)
        missing = {name: value for name, value in fields.items() if name not in said}
        return rendered(missing, named=len(fields) > 1)

    def _text(self, outputs: Mapping[str, Any]) -> str:
        fields = answer_fields(self._spec, outputs)
        if self._fields is None:
            return rendered(fields)
        wanted = self._fields or tuple(fields)
        return encode({name: fields[name] for name in wanted if name in fields}).decode()


class StopTexts:
    """Lets text through, piece by piece, until one of some texts has come: that one and the rest are kept."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = [text for text in texts if text]
        self.found = False
        self._held = ""

    def feed(self, piece: str) -> str:
        """What of the text so far can be no part of a stop text."""
        if self.found:
            return ""
        text, self._held = self._held + piece, ""
        places = [place for stop in self.texts if (place := text.find(stop)) >= 0]
        if places:
            self.found = True
            return text[: min(places)]
        begun = max((_overlap(text, stop) for stop in self.texts), default=0)
        cut = len(text) - begun
        self._held = text[cut:]
        return text[:cut]

    def rest(self) -> str:
        """What was held back as the possible beginning of a stop text, at the end of the text."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of `text` are the beginning of `stop`."""
    most = min(len(text), len(stop) - 1)
    return next((length for length in range(most, 0, -1) if text.endswith(stop[:length])), 0)


def answer_fields(spec: ProgramSpec, outputs: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a prediction that are its answer, in the program's order."""
    known = {name: outputs[name] for name in spec.outputs if name in outputs}
    return known or {
        name: value for name, value in outputs.items() if name not in REASONING_FIELDS | TRACE_FIELDS
    }


def reasoning_of(outputs: Mapping[str, Any]) -> str:
    """The reasoning of a prediction, or empty."""
    texts = (text for name, text in outputs.items() if name in REASONING_FIELDS)
    return next((text for text in texts if isinstance(text, str) and text), "")


def rendered(fields: Mapping[str, Any], *, named: bool | None = None) -> str:
    """One field as its value, several as paragraphs ``name: value``; `named` says which by force."""
    if named is None:
        named = len(fields) > 1
    texts = {name: value_text(value) for name, value in fields.items()}
    return PARAGRAPH.join(f"{name}: {text}" if named else text for name, text in texts.items())


def value_text(value: Any) -> str:
    """Text as it is, anything else as JSON."""
    return value if isinstance(value, str) else encode(value).decode()


def says_the_same(streamed: str, value: Any) -> bool:
    """Whether the text that a model wrote for a field is its final value, apart from the spelling.

    A model writes ``[1, 2]``, ``True`` or ``"4"`` where the value's JSON is ``[1,2]``, ``true`` and ``4``.
    """
    streamed = streamed.strip()
    if isinstance(value, str):
        return streamed == value.strip()
    if streamed in (str(value), value_text(value)):
        return True
    try:
        return bool(orjson.loads(streamed) == value)
    except orjson.JSONDecodeError:
        return False
