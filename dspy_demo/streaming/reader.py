"""From the chunks of a program's model calls to the events of its turn."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

import dspy

from dspy_demo.adapters import ADAPTERS, Parser, Piece, split_thinking
from dspy_demo.events import Channel, Event, FieldDelta, Status
from dspy_demo.programs.spec import REASONING_FIELDS
from dspy_demo.streaming.observer import ModelCall, Step

#: Of a chunk of DSPy's; calls of tools are not shown.
DELTA_PARTS = ("reasoning_content", "content", "tool_calls")
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
        self._replies: dict[ModelCall, Parser] = {}
        self._last: dict[str, str] = {}
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
            parts = [self._bounded(str(choice.delta.get(name) or "")) for name in DELTA_PARTS]
            call.streamed = call.streamed or any(parts)
            thinking, text = thinking + parts[0], text + parts[1]
        if thinking:
            yield FieldDelta(THINKING, "reasoning", thinking, call.step.name)
        if text:
            parser = self._replies.get(call) or self._replies.setdefault(call, _parser_of(call.step))
            yield from self._deltas(call, parser.feed(text))
        if None in chunks:
            yield from self._ended(call)

    def finish(self) -> Iterator[Event]:
        """What is held back of replies that did not end."""
        for call in list(self._replies):
            yield from self._ended(call)

    def arrived(self) -> dict[str, str]:
        """The output fields of the last reply, as far as it came."""
        wanted = (self._outputs or self._last.keys() - {THINKING}) | REASONING_FIELDS
        return {field: text for field, text in self._last.items() if field in wanted}

    def _bounded(self, text: str) -> str:
        self.full = self.full or len(text) > self._room
        text = text[: self._room]
        self._room -= len(text)
        return text

    def _ended(self, call: ModelCall) -> Iterator[Event]:
        """One that came whole is not shown in pieces, but `arrived` has it."""
        parser = self._replies.pop(call, None) or _parser_of(call.step)
        self._last = parser.shown
        pieces = [*parser.feed(call.whole_text), *parser.finish()]
        if not call.whole_text:
            yield from self._deltas(call, pieces)

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


def _parser_of(step: Step) -> Parser:
    """A parser that tells thinking from the fields, around all of them or at the start of one."""

    def reading(text: str, fields: Sequence[str], ended: bool) -> dict[str, str]:
        thinking, rest = split_thinking(text, ended)
        found = ADAPTERS[step.adapter].reading(rest, fields, ended) if step.adapter else {REPLY: rest}
        split = {field: split_thinking(value, ended) for field, value in found.items()}
        thoughts = [thinking, *(thought for thought, _ in split.values())]
        return {THINKING: "".join(thoughts), **{field: value for field, (_, value) in split.items()}}

    return Parser(step.fields, reading)
