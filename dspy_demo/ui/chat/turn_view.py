"""The state of one turn on the page: a pure fold of its events, which `render.messages` draws."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self, assert_never

from dspy_demo import events
from dspy_demo.programs.spec import REASONING_FIELDS, TRACE_FIELDS
from dspy_demo.ui.chat.text import as_json, plain_text

TurnState = Literal["running", "done", "stopped", "failed"]


@dataclass(frozen=True, slots=True)
class Thought:
    """What one step wrote into one field that is not the answer.

    `open`: it is being written, or was at a bad end: then it is shown unfolded, as it may be all that came.
    """

    step: str
    field: str
    text: str = ""
    started_s: float = 0.0
    duration_s: float | None = None
    open: bool = False


@dataclass(frozen=True, slots=True)
class StatusLine:
    """A tool call or another thing worth seeing; `count` events with its `key` have changed it.

    `thought` is the index in `TurnView.work` of the thought that it belongs to, if any.
    """

    text: str
    state: events.StatusState
    key: str = ""
    thought: int | None = None
    started_s: float = 0.0
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

    `inputs` are the program's other inputs as (label, value), `form` as the program takes them; `expected`
    the answer's fields, where known before they arrive; `rated` the visitor's thumb, up or down.
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
    work: tuple[Thought | StatusLine, ...] = ()
    answers: tuple[Answer, ...] = ()
    failure: events.TurnFailed | None = None
    usage: events.Usage = field(default_factory=events.Usage)
    started_s: float = 0.0
    first_delta_s: float | None = None
    elapsed_s: float = 0.0
    trace_id: str | None = None
    rated: bool | None = None
    comment: str = ""
    finish_reason: events.FinishReason = "stop"

    @property
    def running(self) -> bool:
        return self.state == "running"

    @property
    def thoughts(self) -> tuple[Thought, ...]:
        return tuple(part for part in self.work if isinstance(part, Thought))

    @property
    def lines(self) -> tuple[StatusLine, ...]:
        return tuple(part for part in self.work if isinstance(part, StatusLine))

    @property
    def answer_text(self) -> str:
        """The answer as plain text, as the program's history will hold it; empty where there is none."""
        shown = [answer for answer in self.answers if answer.field == self.answer_field] or self.answers
        if len(shown) == 1:
            return plain_text(shown[0].value)
        return "\n\n".join(f"{answer.field}: {plain_text(answer.value)}" for answer in shown)

    def apply(self, event: events.Event, now_s: float) -> Self:
        """The view after one more event, which arrived at `now_s` on the page's own clock."""
        if not self.running:
            return self
        match event:
            case events.TurnStarted():
                return replace(self, backend=event.backend, model=event.model)
            case events.FieldDelta():
                return self._with_delta(event, now_s) if event.text else self
            case events.Status():
                return self._with_status(event, now_s)
            case events.TurnFinished():
                return self._finished(event, now_s)
            case events.TurnFailed():
                return replace(self._ended("failed", now_s), failure=event)
            case _ as never:
                assert_never(never)

    def stopped(self, now_s: float) -> Self:
        """The view after the visitor stopped the turn, or left. What was streamed is kept."""
        return self._ended("stopped", now_s) if self.running else self

    def _with_delta(self, event: events.FieldDelta, now_s: float) -> Self:
        view = self._retries_over("Answered")
        if view.first_delta_s is None:
            view = replace(view, first_delta_s=now_s - view.started_s)
        if event.channel == "tool":  # shown by its Status, not by its raw arguments
            return view
        if event.channel == "answer":
            return view._closed(now_s)._with_answer(event)
        return view._with_thought(event, now_s)

    def _with_thought(self, event: events.FieldDelta, now_s: float) -> Self:
        # Steps that run at once write in turns; a step's name is that of one call.
        for part in self.thoughts:
            if (part.step, part.field) == (event.step, event.field):
                return self._putting(part, replace(part, text=part.text + event.text, open=True))
        new = Thought(event.step, event.field, event.text, started_s=now_s, open=True)
        return self._closed(now_s)._adding(new)

    def _with_answer(self, event: events.FieldDelta) -> Self:
        new = Answer(event.field, event.step, event.text)
        earlier = next((answer for answer in self.answers if answer.field == event.field), None)
        if earlier is None:
            return replace(self, answers=(*self.answers, new))
        before, view = plain_text(earlier.value), self
        if earlier.step == event.step:
            new = replace(new, value=before + event.text)
        else:  # a later step answers anew: what the earlier one wrote stays readable as a thought
            view = self._adding(Thought(earlier.step, event.field, before))
        return replace(view, answers=tuple(new if answer is earlier else answer for answer in self.answers))

    def _with_status(self, event: events.Status, now_s: float) -> Self:
        # The wait in the queue is not the turn's time, which starts when that ends.
        view = replace(self, started_s=now_s) if event.key == events.QUEUE_KEY else self
        for line in view.lines:
            if event.key and line.key == event.key:
                took_s = None if event.state in {"info", "pending"} else now_s - line.started_s
                changed = replace(line, text=event.text, state=event.state, duration_s=took_s)
                return view._putting(line, replace(changed, count=line.count + 1))
        thoughts = [index for index, part in enumerate(view.work) if isinstance(part, Thought)]
        alone = not event.key or event.key == events.RETRY_KEY or not thoughts
        thought = None if alone else thoughts[-1]
        return view._adding(StatusLine(event.text, event.state, event.key, thought, started_s=now_s))

    def _finished(self, event: events.TurnFinished, now_s: float) -> Self:
        cut = event.finish_reason != "stop"
        view = self._ended("done", now_s, unfolded=cut)
        answers: list[Answer] = []
        for name, value in event.outputs.items():
            if name in TRACE_FIELDS and isinstance(value, Mapping):
                view = view._with_trajectory(name, value)
            elif name in REASONING_FIELDS and name not in view.expected:
                view = view._with_final_thought(name, value)
            else:
                answers.append(Answer(name, value=value))
        if cut:
            answers += [answer for answer in view.answers if answer.field not in event.outputs]
        return replace(
            view,
            answers=tuple(answers) or view.answers,
            usage=event.usage,
            first_delta_s=event.first_delta_s,
            elapsed_s=event.elapsed_s or now_s - self.started_s,
            trace_id=event.trace_id,
            finish_reason=event.finish_reason,
        )

    def _with_final_thought(self, name: str, value: Any) -> Self:
        # `dspy.Reasoning` arrives as an object with its text in `content`.
        text = plain_text(value.get("content", value) if isinstance(value, Mapping) else value)
        streamed = [thought for thought in self.thoughts if thought.field == name]
        if streamed and text.strip():
            return self._putting(streamed[-1], replace(streamed[-1], text=text))
        return self._adding(Thought("", name, text)) if text.strip() else self

    def _with_trajectory(self, name: str, steps: Mapping[str, Any]) -> Self:
        """The tool calls of a backend that does not stream them (ReAct says why in `next_thought`)."""
        calls = any(line.key not in {"", events.QUEUE_KEY} for line in self.lines)
        streamed = calls or any(thought.field == "next_thought" for thought in self.thoughts)
        return self if streamed else self._adding(Thought("", name, f"```json\n{as_json(steps)}\n```"))

    def _adding(self, part: Thought | StatusLine) -> Self:
        return replace(self, work=(*self.work, part))

    def _putting(self, old: Thought | StatusLine, new: Thought | StatusLine) -> Self:
        return replace(self, work=tuple(new if part is old else part for part in self.work))

    def _closed(self, now_s: float, *, unfolded: bool = False) -> Self:
        view = self
        for part in self.thoughts:
            if part.open:
                view = view._putting(part, replace(part, open=unfolded, duration_s=now_s - part.started_s))
        return view

    def _retries_over(self, how: str) -> Self:
        """With what became of the retries in place of the line that announced the last one."""
        for line in self.lines:
            if line.key == events.RETRY_KEY:
                many = "retry" if line.count == 1 else "retries"
                return self._putting(line, replace(line, key="", text=f"{how} after {line.count} {many}"))
        return self

    def _ended(self, state: TurnState, now_s: float, *, unfolded: bool = True) -> Self:
        view = self._retries_over({"done": "Answered", "stopped": "Stopped"}.get(state, "Gave up"))
        view = view._closed(now_s, unfolded=unfolded)
        for line in view.lines:
            if line.state == "pending":
                view = view._putting(line, replace(line, state="failed"))
        return replace(view, state=state, elapsed_s=now_s - self.started_s)
