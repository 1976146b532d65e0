"""From the chunks of a program's model calls to the events of its turn."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator
from operator import itemgetter
from typing import Any, Literal

import dspy

from dspy_demo.adapters import prefix_parser
from dspy_demo.events import Channel, Event, FieldDelta, Status
from dspy_demo.programs.spec import REASONING_FIELDS
from dspy_demo.streaming.observer import CallEnded, ModelCall
from dspy_demo.streaming.thinking import ThinkTags

TOOL_FIELDS = frozenset({"next_tool_name", "next_tool_args"})
#: The field name of a model's own thinking, beside the reasoning that the program asks for.
THINKING = "thinking"


def answering_predictor(program: dspy.Module) -> dspy.Predict | None:
    """The predictor whose output fields may be shown as the answer while they are written.

    What was shown as the answer cannot be taken back everywhere: the OpenAI route has sent it. So it has to
    be certain that one predictor makes the output fields and that it runs once, which is known of DSPy's
    `Predict`, `ChainOfThought` and `ReAct`. A module may say it of itself by naming the predictor:
    ``answer_step = "respond"``. The text of any other program streams as reasoning, one thought for each
    call of a predictor, and its answer comes whole with `TurnFinished`: how often and in which order a
    module asks its predictors, and what it makes of what they say, only running it tells (`dspy.BestOfN`,
    `dspy.Refine`, two calls whose answers are joined).
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
        self._answer: _Reply | None = None
        self._room = max_chars
        self.full = False

    def read(self, items: Iterable[Any]) -> Iterator[Event]:
        """The events of what came together; neighbouring chunks of one reply make one increment."""
        pieces = (piece for item in items for piece in _pieces(item))
        for (call, kind), group in itertools.groupby(pieces, key=itemgetter(0, 1)):
            if call is None:
                yield from (event for _, _, event in group)
            elif kind == "end":
                yield from self._ended(call, "".join(piece[2] for piece in group))
            else:
                yield from self._more(call, kind, "".join(piece[2] for piece in group))

    def finish(self) -> Iterator[Event]:
        """What is still held back of replies that did not end."""
        for call in list(self._replies):
            yield from self._ended(call)

    def arrived(self) -> dict[str, str]:
        """The output fields that the last reply has, as far as it came."""
        fields = self._last.fields() if self._last else {}
        wanted = (self._outputs or fields.keys()) | REASONING_FIELDS
        return {field: text for field, text in fields.items() if field in wanted}

    def _more(self, call: ModelCall, kind: str, text: str) -> Iterator[Event]:
        self.full = self.full or len(text) > self._room
        text = text[: self._room]
        self._room -= len(text)
        call.streamed = True
        if call not in self._replies:
            self._replies[call] = _Reply(call)
        reply = self._replies[call]
        if kind == "thinking":
            yield FieldDelta(THINKING, "reasoning", text, call.step.name)
        elif kind == "content":
            yield from self._events(reply, reply.feed(text))

    def _ended(self, call: ModelCall, whole_text: str = "") -> Iterator[Event]:
        """A reply is complete. One that came whole is not shown in pieces, but `arrived` has it."""
        reply = self._last = self._replies.pop(call, None) or _Reply(call)
        if whole_text:
            for _ in (*reply.feed(whole_text), *reply.finish()):
                pass
        else:
            yield from self._events(reply, reply.finish())

    def _events(self, reply: _Reply, pieces: Iterable[tuple[str, str]]) -> Iterator[Event]:
        for field, text in pieces:
            yield FieldDelta(field, self._channel(reply, field), text, reply.call.step.name)

    def _channel(self, reply: _Reply, field: str) -> Channel:
        step = reply.call.step
        if field in TOOL_FIELDS and TOOL_FIELDS.issubset(step.fields):
            return "tool"
        if not step.answers or field in REASONING_FIELDS or field not in (self._outputs or step.fields):
            return "reasoning"
        # Asked again after it had answered, its predictor only adds thoughts: the end says which one counts.
        self._answer = self._answer or reply
        return "answer" if reply is self._answer else "reasoning"


class _Reply:
    """The reply of one model call. In a format that is not known it is one field, ``reply``."""

    def __init__(self, call: ModelCall) -> None:
        step = call.step
        self.call = call
        self._tags: dict[str, ThinkTags] = {"": ThinkTags()}
        self._splitter = prefix_parser(step.adapter, step.fields) if step.adapter else None
        self._texts: dict[str, list[str]] = {}

    def feed(self, text: str) -> Iterator[tuple[str, str]]:
        """The fields' texts that are certain after `text`; thinking is a field of its own."""
        yield from self._split(*self._tags[""].feed(text))

    def finish(self) -> Iterator[tuple[str, str]]:
        """What was held back and is text after all."""
        yield from self._split(*self._tags[""].finish())
        for piece in self._splitter.finish() if self._splitter else ():
            yield from self._told(piece.field, *self._tags_of(piece.field).feed(piece.text))
        for field, tags in self._tags.items():
            if field:
                yield from self._told(field, *tags.finish())

    def fields(self) -> dict[str, str]:
        """The texts of the fields so far."""
        return {field: "".join(texts) for field, texts in self._texts.items()}

    def _split(self, thinking: str, text: str) -> Iterator[tuple[str, str]]:
        if thinking:
            yield THINKING, thinking
        if not text:
            return
        if self._splitter is None:
            yield "reply", text
            return
        for piece in self._splitter.feed(text):
            yield from self._told(piece.field, *self._tags_of(piece.field).feed(piece.text))

    def _tags_of(self, field: str) -> ThinkTags:
        return self._tags.setdefault(field, ThinkTags())

    def _told(self, field: str, thinking: str, text: str) -> Iterator[tuple[str, str]]:
        if thinking:
            yield THINKING, thinking
        if text:
            self._texts.setdefault(field, []).append(text)
            yield field, text


Kind = Literal["event", "thinking", "tool", "content", "end"]


def _pieces(item: Any) -> Iterator[tuple[ModelCall | None, Kind, Any]]:
    """Whose, what and the text of an item of the stream.

    A chunk is DSPy's `EngineChunk` (a dict) or a ``ModelResponseStream`` of litellm. Empty texts are left
    out: litellm begins with one, and beside a thinking delta there is an empty content.
    """
    if isinstance(item, CallEnded):
        yield item.call, "end", item.whole_text
        return
    if isinstance(item, Status):
        yield None, "event", item
        return
    call, chunk = item if isinstance(item, tuple) else (None, None)  # sent past `ModelCall`: shown at the end
    choices = getattr(chunk, "choices", None)
    if call is None or not choices:
        return
    call.ended(choices[0].finish_reason)
    delta = choices[0].delta
    delta = delta if hasattr(delta, "get") else vars(delta)
    if thinking := delta.get("reasoning_content"):
        yield call, "thinking", thinking
    if calls := delta.get("tool_calls"):
        yield call, "tool", str(calls)
    if content := delta.get("content"):
        yield call, "content", content
