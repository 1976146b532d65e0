"""From the chunks of a program's model calls to the events of its turn."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator
from typing import Any

import dspy

from dspy_demo.adapters import ADAPTERS, THINK_CLOSE, THINK_OPEN, Parser, Piece
from dspy_demo.events import Channel, Event, FieldDelta, Status
from dspy_demo.programs.spec import REASONING_FIELDS
from dspy_demo.streaming.observer import ModelCall, Step

TOOL_FIELDS = frozenset({"next_tool_name", "next_tool_args"})
#: The field names of a model's own thinking, and of a reply in a format that is not known.
THINKING, REPLY = "thinking", "reply"


def answering_predictor(program: dspy.Module) -> dspy.Predict | None:
    """The predictor whose output fields may be shown as the answer while they are written.

    The OpenAI route cannot take an answer back, so it must be certain that this predictor makes the output
    fields and runs once: in DSPy's `Predict`, `ChainOfThought` and `ReAct`, and in a module that names it,
    ``answer_step = "respond"``. Other text streams as reasoning, and the answer comes with `TurnFinished`.
    """
    step: Any
    if type(program) in (dspy.Predict, dspy.ChainOfThought):
        step = program
    elif type(program) is dspy.ReAct:
        step = program.extract
    else:
        step = getattr(program, str(getattr(program, "answer_step", "")), None)
    predictor = step.predict if isinstance(step, dspy.ChainOfThought) else step
    return predictor if isinstance(predictor, dspy.Predict) else None


class ReplyReader:
    """Turns what the models of one turn write into events, keeping their replies apart.

    It is `full` when all models together have written more than `max_chars`.
    """

    def __init__(self, outputs: Collection[str], *, max_chars: int) -> None:
        self._outputs = frozenset(outputs)
        self._replies: dict[ModelCall, _Reply] = {}
        self._last: _Reply | None = None
        self._answer: ModelCall | None = None
        self._room = max_chars
        self.full = False

    def read(self, items: Iterable[Any]) -> Iterator[Event]:
        """The events of what came together (see `TurnObserver`); neighbouring chunks make one increment."""
        for call, group in itertools.groupby(items, key=lambda item: type(item) is tuple and item[0]):
            if isinstance(call, ModelCall):
                yield from self._of_call(call, [chunk for _, chunk in group])
            else:
                yield from (item for item in group if isinstance(item, Status))

    def _of_call(self, call: ModelCall, chunks: list[Any]) -> Iterator[Event]:
        thinking = text = ""
        for choice in [chunk.choices[0] for chunk in chunks if getattr(chunk, "choices", None)]:
            call.note_end(choice.finish_reason)
            delta = choice.delta
            thinking += self._bounded(delta.get("reasoning_content"))
            text += self._bounded(delta.get("content"))
            calls_tools = bool(self._bounded(str(delta.get("tool_calls") or "")))
            call.streamed = bool(call.streamed or thinking or text or calls_tools)
        if thinking:
            yield FieldDelta(THINKING, "reasoning", thinking, call.step.name)
        if text:
            yield from self._deltas(call, self._reply(call).read(text))
        if None in chunks:
            yield from self._ended(call)

    def finish(self) -> Iterator[Event]:
        """What is held back of replies that did not end."""
        for call in list(self._replies):
            yield from self._ended(call)

    def arrived(self) -> dict[str, str]:
        """The output fields of the last reply, as far as it came."""
        fields = {name: "".join(texts) for name, texts in self._last.texts.items()} if self._last else {}
        wanted = (self._outputs or fields.keys()) | REASONING_FIELDS
        return {field: text for field, text in fields.items() if field in wanted}

    def _bounded(self, text: str | None) -> str:
        text = text or ""
        self.full = self.full or len(text) > self._room
        text = text[: self._room]
        self._room -= len(text)
        return text

    def _reply(self, call: ModelCall) -> _Reply:
        return self._replies.get(call) or self._replies.setdefault(call, _Reply(call.step))

    def _ended(self, call: ModelCall) -> Iterator[Event]:
        """One that came whole is not shown in pieces, but `arrived` has it."""
        self._last = self._reply(call)
        pieces = self._last.read(call.whole_text, ended=True)
        if not call.whole_text:
            yield from self._deltas(call, pieces)
        del self._replies[call]

    def _deltas(self, call: ModelCall, pieces: Iterable[Piece]) -> Iterator[Event]:
        for field, text in pieces:
            yield FieldDelta(field, self._channel(call, field), text, call.step.name)

    def _channel(self, call: ModelCall, field: str) -> Channel:
        step = call.step
        if field in TOOL_FIELDS and TOOL_FIELDS.issubset(step.fields):
            return "tool"
        if not step.answers or field in REASONING_FIELDS or field not in (self._outputs or step.fields):
            return "reasoning"
        # Asked again after it had answered, its predictor only adds thoughts: the end says which one counts.
        self._answer = self._answer or call
        return "answer" if call is self._answer else "reasoning"


class _Reply:
    """The reply of one model call: `texts` are the pieces of each field, without what it thinks."""

    def __init__(self, step: Step) -> None:
        self.texts: dict[str, list[str]] = {}
        self._tags = ThinkTags(REPLY)
        self._parser = Parser(step.fields, ADAPTERS[step.adapter].reading) if step.adapter else None
        self._field_tags: dict[str, ThinkTags] = {}

    def read(self, text: str, *, ended: bool = False) -> list[Piece]:
        """The pieces that are certain after `text`, and at the end those that were held back."""
        found: list[Piece] = []
        for piece in self._tags.feed(text, ended=ended):
            if piece.field == THINKING or self._parser is None:
                found.append(piece)
            else:
                found += self._of_fields(self._parser.feed(piece.text))
        if ended and self._parser is not None:
            found += self._of_fields(self._parser.finish())
            for tags in self._field_tags.values():
                found += tags.feed("", ended=True)
        for field, piece_text in found:
            if field != THINKING:
                self.texts.setdefault(field, []).append(piece_text)
        return found

    def _of_fields(self, pieces: Iterable[Piece]) -> Iterator[Piece]:
        for field, text in pieces:
            yield from self._field_tags.setdefault(field, ThinkTags(field)).feed(text)


class ThinkTags:
    """Tells thinking between ``<think>`` tags, which some servers leave in, from the text after it.

    Only a block at the very start counts: later the tag is part of what somebody writes about.
    """

    def __init__(self, field: str) -> None:
        self._field = field
        self._held = ""
        self._inside: bool | None = None  # None until it is known whether there is a block

    def feed(self, text: str, *, ended: bool = False) -> list[Piece]:
        """The pieces that are certain after `text`; at the end all."""
        self._held += text
        if self._inside is None:
            start = self._held.lstrip()
            if len(start) < len(THINK_OPEN) and THINK_OPEN.startswith(start) and not ended:
                return []
            self._inside = start.startswith(THINK_OPEN)
            self._held = start.removeprefix(THINK_OPEN) if self._inside else self._held
        thinking, rest = "", self._held
        if self._inside:
            thinking, closed, rest = self._held.partition(THINK_CLOSE)
            self._inside = not closed
        sure = len(thinking) - (_overlap(thinking) if self._inside and not ended else 0)
        self._held = thinking[sure:] if self._inside else ""
        pieces = (Piece(THINKING, thinking[:sure]), Piece(self._field, rest))
        return [piece for piece in pieces if piece.text]


def _overlap(text: str) -> int:
    """How many characters at the end of `text` may be the start of the closing tag."""
    return next((size for size in range(len(THINK_CLOSE) - 1, 0, -1) if text.endswith(THINK_CLOSE[:size])), 0)
