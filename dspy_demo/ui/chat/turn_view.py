"""The state of one turn on the page: a pure fold of its events.

    view = TurnView.start("What is 2 + 2?", now_s=clock())
    for event in events:
        view = view.apply(event, clock())

`render.messages` draws a view. Nothing here knows Gradio, the clock or the network.
"""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from dspy_demo.events import (
    QUEUE_KEY,
    RETRY_KEY,
    Event,
    FieldDelta,
    FinishReason,
    Status,
    StatusState,
    TurnFailed,
    TurnFinished,
    TurnStarted,
    Usage,
)
from dspy_demo.programs.spec import REASONING_FIELDS
from dspy_demo.ui.chat.trajectory import tool_calls
from dspy_demo.ui.chat.values import plain_text

TurnState = Literal["running", "done", "stopped", "failed"]

#: What ReAct returns beside its answer: its tool calls, which have lines of their own.
TRAJECTORY_FIELD = "trajectory"
#: The field in which ReAct says why it calls a tool.
TOOL_THOUGHT = "next_thought"


@dataclass(frozen=True, slots=True)
class Thought:
    """What one step wrote into one field that is not the answer.

    Attributes:
        open: It is being written, or was when the turn was stopped, cut or failed: then it is shown unfolded,
            since it may be all that arrived.
    """

    step: str
    field: str
    text: str = ""
    started_s: float | None = None
    duration_s: float | None = None
    open: bool = False

    def ended(self, now_s: float, *, open: bool = False) -> Thought:
        """As it is when nothing more comes; `open` leaves it unfolded."""
        if not self.open:
            return self
        started_s = now_s if self.started_s is None else self.started_s
        return dataclasses.replace(self, open=open, duration_s=max(0.0, now_s - started_s))


@dataclass(frozen=True, slots=True)
class StatusLine:
    """A tool call or another thing worth seeing.

    Attributes:
        key: Later news with the same key change this line.
        thought: The index of the thought that it belongs to.
        count: How often it was told: for a line of `RETRY_KEY`, the retries so far.
    """

    text: str
    state: StatusState
    key: str = ""
    thought: int | None = None
    started_s: float | None = None
    duration_s: float | None = None
    count: int = 1


@dataclass(frozen=True, slots=True)
class Answer:
    """One output field: the text streamed so far, or the final value."""

    field: str
    step: str = ""
    value: Any = ""


@dataclass(frozen=True, slots=True)
class TurnView:
    """One question and all that came back so far.

    Attributes:
        user: What the visitor typed into the chat box.
        inputs: The program's other inputs, as (label, value) pairs.
        expected: The answer's fields in order, where known before they arrive.
        order: What came in which order: ``t0`` a thought, ``s0`` a status line without a thought.
        trace_url: The trace on MLflow's pages, while they run.
        rated: The visitor's thumb, up or down; `comment` is what they wrote to it.
        finish_reason: How the reply ended; other than ``stop``, it was cut.
        guest: Whether a guest asked, who cannot raise the token limit.
    """

    user: str
    inputs: tuple[tuple[str, Any], ...] = ()
    form: Mapping[str, Any] = field(default_factory=dict)
    expected: tuple[str, ...] = ()
    answer_field: str | None = None
    turn_id: str = field(default_factory=lambda: secrets.token_hex(8))
    state: TurnState = "running"
    backend: str = ""
    model: str = ""
    incremental: bool = True
    thoughts: tuple[Thought, ...] = ()
    lines: tuple[StatusLine, ...] = ()
    order: tuple[str, ...] = ()
    answers: tuple[Answer, ...] = ()
    failure: TurnFailed | None = None
    usage: Usage = field(default_factory=Usage)
    started_s: float = 0.0
    first_delta_s: float | None = None
    elapsed_s: float = 0.0
    trace_id: str | None = None
    trace_url: str = ""
    rated: bool | None = None
    comment: str = ""
    finish_reason: FinishReason = "stop"
    guest: bool = False

    @classmethod
    def start(cls, user: str, *, now_s: float, **details: Any) -> Self:
        """A turn that was just sent."""
        return cls(user, started_s=now_s, **details)

    @property
    def running(self) -> bool:
        return self.state == "running"

    def apply(self, event: Event, now_s: float) -> Self:
        """The view after one more event, which arrived at `now_s` on the page's own clock."""
        if not self.running:
            return self
        match event:
            case TurnStarted():
                return dataclasses.replace(
                    self, backend=event.backend, model=event.model, incremental=event.incremental
                )
            case FieldDelta():
                return self._with_delta(event, now_s)
            case Status(key=key):
                # The wait in line is not the turn's: it starts when that ends.
                view = dataclasses.replace(self, started_s=now_s) if key == QUEUE_KEY else self
                return view._with_status(event, now_s)
            case TurnFinished():
                return self._finished(event, now_s)
            case TurnFailed():
                return dataclasses.replace(self._ended("failed", now_s), failure=event)

    def stopped(self, now_s: float) -> Self:
        """The view after the visitor stopped the turn, or left. What was streamed is kept."""
        return self._ended("stopped", now_s) if self.running else self

    @property
    def answer_text(self) -> str:
        """The answer as plain text, as the program's history will hold it; empty where there is none."""
        named = [answer for answer in self.answers if answer.field == self.answer_field]
        shown = named or list(self.answers)
        if len(shown) == 1:
            return plain_text(shown[0].value)
        return "\n\n".join(f"{answer.field}: {plain_text(answer.value)}" for answer in shown)

    # One event each

    def _with_delta(self, event: FieldDelta, now_s: float) -> Self:
        if not event.text:
            return self
        view = self._retries_over("Answered")
        if view.first_delta_s is None:
            view = dataclasses.replace(view, first_delta_s=now_s - view.started_s)
        match event.channel:
            case "reasoning":
                return view._with_thought(event, now_s)
            case "answer":
                return view._closed(now_s)._with_answer(event)
            case "tool":
                # A tool call arrives as a Status, in words; its raw arguments are not for reading.
                return view

    def _with_thought(self, event: FieldDelta, now_s: float) -> Self:
        # Steps that run at once write in turns; a step's name is that of one call.
        for index, thought in enumerate(self.thoughts):
            if (thought.step, thought.field) == (event.step, event.field):
                longer = dataclasses.replace(thought, text=thought.text + event.text, open=True)
                return dataclasses.replace(
                    self, thoughts=(*self.thoughts[:index], longer, *self.thoughts[index + 1 :])
                )
        closed = self._closed(now_s)
        new = Thought(event.step, event.field, event.text, started_s=now_s, open=True)
        return closed._adding(new)

    def _with_answer(self, event: FieldDelta) -> Self:
        earlier = next((answer for answer in self.answers if answer.field == event.field), None)
        if earlier is None:
            new = Answer(event.field, event.step, event.text)
            return dataclasses.replace(self, answers=(*self.answers, new))
        if earlier.step == event.step:
            return self._replacing(Answer(event.field, event.step, plain_text(earlier.value) + event.text))
        # A later step answers anew: what the earlier one said stays readable as a thought.
        draft = Thought(earlier.step, earlier.field, plain_text(earlier.value))
        return self._adding(draft)._replacing(Answer(event.field, event.step, event.text))

    def _with_status(self, event: Status, now_s: float) -> Self:
        for index, line in enumerate(self.lines):
            if event.key and line.key == event.key:
                changed = dataclasses.replace(line, text=event.text, state=event.state, count=line.count + 1)
                if event.state in {"done", "failed"} and line.started_s is not None:
                    changed = dataclasses.replace(changed, duration_s=now_s - line.started_s)
                return self._with_line(index, changed)
        alone = not event.key or event.key == RETRY_KEY or not self.thoughts
        thought = None if alone else len(self.thoughts) - 1
        line = StatusLine(event.text, event.state, event.key, thought, started_s=now_s)
        order = self.order if thought is not None else (*self.order, f"s{len(self.lines)}")
        return dataclasses.replace(self, lines=(*self.lines, line), order=order)

    def _finished(self, event: TurnFinished, now_s: float) -> Self:
        cut = event.finish_reason != "stop"
        view = self._ended("done", now_s, unfolded=cut)
        answers: list[Answer] = []
        for name, value in event.outputs.items():
            if name == TRAJECTORY_FIELD and isinstance(value, Mapping):
                view = view._with_trajectory(value)
            elif name in REASONING_FIELDS and name not in view.expected:
                view = view._with_final_thought(name, _reasoning_text(value))
            else:
                answers.append(Answer(name, value=value))
        if cut:
            answers += [answer for answer in view.answers if answer.field not in event.outputs]
        return dataclasses.replace(
            view,
            answers=tuple(answers) or view.answers,
            usage=event.usage,
            first_delta_s=event.first_delta_s,
            elapsed_s=event.elapsed_s or now_s - self.started_s,
            trace_id=event.trace_id,
            finish_reason=event.finish_reason,
        )

    def _with_final_thought(self, name: str, text: str) -> Self:
        if not text.strip():
            return self
        for index in reversed(range(len(self.thoughts))):
            if self.thoughts[index].field == name:
                final = dataclasses.replace(self.thoughts[index], text=text)
                thoughts = (*self.thoughts[:index], final, *self.thoughts[index + 1 :])
                return dataclasses.replace(self, thoughts=thoughts)
        return self._adding(Thought("", name, text))

    def _with_trajectory(self, trajectory: Mapping[str, Any]) -> Self:
        tools = any(line.key not in {"", QUEUE_KEY, RETRY_KEY} for line in self.lines)
        if tools or any(thought.field == TOOL_THOUGHT for thought in self.thoughts):
            return self  # seen live
        view = self
        for call in tool_calls(trajectory):
            if call.thought:
                view = view._adding(Thought("", TOOL_THOUGHT, call.thought))
            if call.text:
                line = StatusLine(call.text, "done", key=call.key, thought=len(view.thoughts) - 1)
                view = dataclasses.replace(view, lines=(*view.lines, line))
        return view

    # Small steps

    def _adding(self, thought: Thought) -> Self:
        order = (*self.order, f"t{len(self.thoughts)}")
        return dataclasses.replace(self, thoughts=(*self.thoughts, thought), order=order)

    def _replacing(self, answer: Answer) -> Self:
        answers = tuple(answer if old.field == answer.field else old for old in self.answers)
        return dataclasses.replace(self, answers=answers)

    def _closed(self, now_s: float, *, unfolded: bool = False) -> Self:
        if not any(thought.open for thought in self.thoughts):
            return self
        thoughts = tuple(thought.ended(now_s, open=unfolded) for thought in self.thoughts)
        return dataclasses.replace(self, thoughts=thoughts)

    def _with_line(self, index: int, line: StatusLine) -> Self:
        return dataclasses.replace(self, lines=(*self.lines[:index], line, *self.lines[index + 1 :]))

    def _retries_over(self, how: str) -> Self:
        """With what became of the retries in place of the line that announced the last one."""
        for index, line in enumerate(self.lines):
            if line.key == RETRY_KEY:
                many = "retry" if line.count == 1 else "retries"
                told = dataclasses.replace(line, key="", text=f"{how} after {line.count} {many}")
                return self._with_line(index, told)
        return self

    def _ended(self, state: TurnState, now_s: float, *, unfolded: bool = True) -> Self:
        view = self._retries_over({"done": "Answered", "stopped": "Stopped"}.get(state, "Gave up"))
        lines = tuple(
            dataclasses.replace(line, state="failed") if line.state == "pending" else line
            for line in view.lines
        )
        return dataclasses.replace(
            view._closed(now_s, unfolded=unfolded),
            state=state,
            lines=lines,
            elapsed_s=max(0.0, now_s - self.started_s),
        )


def _reasoning_text(value: Any) -> str:
    """`dspy.Reasoning` arrives as an object with its text in `content`."""
    if isinstance(value, Mapping) and isinstance(value.get("content"), str):
        return str(value["content"])
    return plain_text(value)
