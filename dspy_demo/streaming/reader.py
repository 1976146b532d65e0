"""From the chunks of a program's model calls to the events of its turn."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator
from typing import Any

import dspy

from dspy_demo.adapters import THINK_CLOSE, THINK_OPEN, Piece, prefix_parser
from dspy_demo.dspy_bridge import read_chunk
from dspy_demo.events import Channel, Event, FieldDelta, Status
from dspy_demo.programs.spec import REASONING_FIELDS
from dspy_demo.streaming.observer import ModelCall, Step

TOOL_FIELDS = frozenset({"next_tool_name", "next_tool_args"})
#: The field name of a model's own thinking, beside the reasoning that the program asks for.
THINKING = "thinking"
#: The field name of a reply in a format that is not known.
REPLY = "reply"


def answering_predictor(program: dspy.Module) -> dspy.Predict | None:
    """The predictor whose output fields may be shown as the answer while they are written.

    What was shown as the answer cannot be taken back everywhere: the OpenAI route has sent it. So it has to
    be certain that one predictor makes the output fields and that it runs once, which is known of DSPy's
    `Predict`, `ChainOfThought` and `ReAct`. A module may say it of itself by naming the predictor:
    ``answer_step = "respond"``. The text of any other program streams as reasoning, one thought for each
    call of a predictor, and its answer comes whole with `TurnFinished`.
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

    Args:
        outputs: The output fields of the program; empty where only running it tells.
        max_chars: How much all of them may write, also where no output field is found in it.

    Attributes:
        full: They have written more than that.
    """

    def __init__(self, outputs: Collection[str], *, max_chars: int) -> None:
        self._outputs = frozenset(outputs)
        self._replies: dict[ModelCall, _Reply] = {}
        self._last: _Reply | None = None
        self._answer: ModelCall | None = None
        self._room = max_chars
        self.full = False

    def read(self, items: Iterable[Any]) -> Iterator[Event]:
        """The events of what came together; neighbouring chunks of one reply make one increment.

        Args:
            items: `Status` events; pairs of a `ModelCall` and a chunk of its reply, or None at its end.
        """
        for call, group in itertools.groupby(
            items, key=lambda item: item[0] if type(item) is tuple else None
        ):
            if call is None:
                yield from (item for item in group if isinstance(item, Status))
                continue
            thinking, text, ended = "", "", False
            for _, chunk in group:
                ended = ended or chunk is None
                part = read_chunk(chunk)
                call.note_end(part.finish_reason)
                thinking += self._bounded(part.thinking)
                text += self._bounded(part.content)
                call.streamed = bool(call.streamed or thinking or text or self._bounded(part.tool_calls))
            if thinking:
                yield FieldDelta(THINKING, "reasoning", thinking, call.step.name)
            if text:
                yield from self._pieces(call, self._reply(call).feed(text))
            if ended:
                yield from self._ended(call)

    def finish(self) -> Iterator[Event]:
        """What is still held back of replies that did not end."""
        for call in list(self._replies):
            yield from self._ended(call)

    def arrived(self) -> dict[str, str]:
        """The output fields that the last reply has, as far as it came."""
        fields = self._last.fields() if self._last else {}
        wanted = (self._outputs or fields.keys()) | REASONING_FIELDS
        return {field: text for field, text in fields.items() if field in wanted}

    def _bounded(self, text: str) -> str:
        """What of `text` there is still room for."""
        self.full = self.full or len(text) > self._room
        text = text[: self._room]
        self._room -= len(text)
        return text

    def _reply(self, call: ModelCall) -> _Reply:
        if call not in self._replies:
            self._replies[call] = _Reply(call.step)
        return self._replies[call]

    def _ended(self, call: ModelCall) -> Iterator[Event]:
        """A reply is complete. One that came whole is not shown in pieces, but `arrived` has it."""
        reply = self._last = self._reply(call)
        whole = [*reply.feed(call.whole_text), *reply.finish()]
        if not call.whole_text:
            yield from self._pieces(call, whole)
        del self._replies[call]

    def _pieces(self, call: ModelCall, pieces: Iterable[Piece]) -> Iterator[Event]:
        for field, text in pieces:
            if text:
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
    """The reply of one model call, read as a `PrefixParser` does; thinking is a field of its own."""

    def __init__(self, step: Step) -> None:
        self._texts: dict[str, list[str]] = {}
        self._tags = ThinkTags(REPLY)
        self._parser = prefix_parser(step.adapter, step.fields) if step.adapter else None
        self._field_tags: dict[str, ThinkTags] = {}

    def feed(self, text: str) -> list[Piece]:
        return self._read(self._tags.feed(text))

    def finish(self) -> list[Piece]:
        rest = self._read(self._tags.finish())
        if self._parser:
            rest += self._of_fields(self._parser.finish())
        for tags in self._field_tags.values():
            rest += self._kept(tags.finish())
        return rest

    def fields(self) -> dict[str, str]:
        return {field: "".join(texts) for field, texts in self._texts.items()}

    def _read(self, pieces: list[Piece]) -> list[Piece]:
        found: list[Piece] = []
        for piece in pieces:
            if piece.field == THINKING or not self._parser:
                found += self._kept([piece])
            else:
                found += self._of_fields(self._parser.feed(piece.text))
        return found

    def _of_fields(self, pieces: list[Piece]) -> list[Piece]:
        found = []
        for field, text in pieces:
            tags = self._field_tags.setdefault(field, ThinkTags(field))
            found += self._kept(tags.feed(text))
        return found

    def _kept(self, pieces: list[Piece]) -> list[Piece]:
        for field, text in pieces:
            if field != THINKING:
                self._texts.setdefault(field, []).append(text)
        return pieces


class ThinkTags:
    """Tells thinking between ``<think>`` tags from the text of `field` after it, as a `PrefixParser` does.

    Some servers do not split it off. Only a block at the very start counts: later in a text the tag is part
    of what somebody writes about. A chunk may end inside a tag.
    """

    def __init__(self, field: str) -> None:
        self._field = field
        self._held = ""
        self._inside: bool | None = None  # None until it is known whether there is a block

    def feed(self, text: str) -> list[Piece]:
        self._held += text
        if self._inside is None:
            start = self._held.lstrip()
            if len(start) < len(THINK_OPEN) and THINK_OPEN.startswith(start):
                return []
            self._inside = start.startswith(THINK_OPEN)
            self._held = start.removeprefix(THINK_OPEN) if self._inside else self._held
        if not self._inside:
            rest, self._held = self._held, ""
            return _pieces((self._field, rest))
        thinking, closed, rest = self._held.partition(THINK_CLOSE)
        if closed:
            self._inside, self._held = False, ""
            return _pieces((THINKING, thinking), (self._field, rest))
        sure = len(thinking) - _overlap(thinking)
        self._held = thinking[sure:]
        return _pieces((THINKING, thinking[:sure]))

    def finish(self) -> list[Piece]:
        return _pieces((THINKING if self._inside else self._field, self._held))


def _pieces(*pieces: tuple[str, str]) -> list[Piece]:
    return [Piece(field, text) for field, text in pieces if text]


def _overlap(text: str) -> int:
    """How many characters at the end of `text` may be the start of the closing tag."""
    return next((size for size in range(len(THINK_CLOSE) - 1, 0, -1) if text.endswith(THINK_CLOSE[:size])), 0)
