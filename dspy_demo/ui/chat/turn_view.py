"""The state of one turn on the page: a pure fold of its events, which `render.messages` draws."""

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
    """What one step wrote into one field that is not the answer: "pending" while it is being written.

    At a bad end that is "failed": it is shown unfolded then, as it may be all that came.
    """

    step: str
    field: str
    text: str
    state: events.StatusState = "done"
    started_s: float = 0.0
    duration_s: float | None = None


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
class TurnView:
    """One question and all that came back so far.

    `inputs` are the program's other inputs; `expected` the answer's fields, where known before they arrive;
    `answers` their text or final value, and `writers` the steps that wrote it; `rated` is a thumb up or down.
    """

    user: str
    inputs: Mapping[str, Any] = field(default_factory=dict)
    expected: tuple[str, ...] = ()
    answer_field: str | None = None
    turn_id: str = field(default_factory=lambda: secrets.token_hex(8))
    state: TurnState = "running"
    backend: str = ""
    model: str = ""
    work: tuple[Thought | StatusLine, ...] = ()
    answers: Mapping[str, Any] = field(default_factory=dict)
    writers: Mapping[str, str] = field(default_factory=dict)
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
        names = [name for name in self.answers if name == self.answer_field] or list(self.answers)
        texts = {name: plain_text(self.answers[name]) for name in names}
        return "\n\n".join(f"{name}: {text}" if len(texts) > 1 else text for name, text in texts.items())

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
        if event.channel == "tool":  # shown by its Status, not by its raw arguments
            return view
        if event.channel == "answer":
            return view._settled(Thought, "done", now_s)._with_answer(event)
        # Steps that run at once write in turns; a step's name is that of one call.
        for part in view.thoughts:
            if (part.step, part.field) == (event.step, event.field):
                return view._putting(part, replace(part, text=part.text + event.text, state="pending"))
        new = Thought(event.step, event.field, event.text, "pending", now_s)
        return view._settled(Thought, "done", now_s)._adding(new)

    def _with_answer(self, event: events.FieldDelta) -> Self:
        view, before = self, plain_text(self.answers.get(event.field))
        writer = self.writers.get(event.field, event.step)
        if writer != event.step:  # a later step answers anew: what the earlier one wrote is a thought now
            view, before = self._adding(Thought(writer, event.field, before)), ""
        answers = {**self.answers, event.field: before + event.text}
        return replace(view, answers=answers, writers={**self.writers, event.field: event.step})

    def _with_status(self, event: events.Status, now_s: float) -> Self:
        # The wait in the queue is not the turn's time, which starts when that ends.
        view = replace(self, started_s=now_s) if event.key == events.QUEUE_KEY else self
        for line in view.lines:
            if event.key and line.key == event.key:
                took_s = now_s - line.started_s if event.state in {"done", "failed"} else None
                changed = replace(line, text=event.text, state=event.state, duration_s=took_s)
                return view._putting(line, replace(changed, count=line.count + 1))
        thoughts = [index for index, part in enumerate(view.work) if isinstance(part, Thought)]
        alone = not event.key or event.key == events.RETRY_KEY or not thoughts
        thought = None if alone else thoughts[-1]
        return view._adding(StatusLine(event.text, event.state, event.key, thought, now_s))

    def _finished(self, event: events.TurnFinished, now_s: float) -> Self:
        view, answers = self._ended("done", now_s, bad=event.finish_reason != "stop"), {}
        for name, value in event.outputs.items():
            if name in TRACE_FIELDS or (name in REASONING_FIELDS and name not in view.expected):
                view = view._with_final_thought(name, value, streamed=self.thoughts)
            else:
                answers[name] = value
        cut = event.finish_reason != "stop" or not answers
        return replace(
            view,
            answers={**view.answers, **answers} if cut else answers,
            usage=event.usage,
            first_delta_s=event.first_delta_s,
            elapsed_s=event.elapsed_s or now_s - self.started_s,
            trace_id=event.trace_id,
            finish_reason=event.finish_reason,
        )

    def _with_final_thought(self, name: str, value: Any, *, streamed: tuple[Thought, ...]) -> Self:
        if name in TRACE_FIELDS:  # the tool calls, for a backend that streams nothing of them
            steps = Thought("", name, f"```json\n{as_json(value)}\n```")
            return self if streamed else self._adding(steps)
        # `dspy.Reasoning` arrives as an object with its text in `content`.
        text = plain_text(value.get("content", value) if isinstance(value, Mapping) else value)
        same = [thought for thought in self.thoughts if thought.field == name]
        if same and text.strip():
            return self._putting(same[-1], replace(same[-1], text=text))
        return self._adding(Thought("", name, text)) if text.strip() else self

    def _adding(self, part: Thought | StatusLine) -> Self:
        return replace(self, work=(*self.work, part))

    def _putting(self, old: Thought | StatusLine, new: Thought | StatusLine) -> Self:
        return replace(self, work=tuple(new if part is old else part for part in self.work))

    def _settled(self, kind: type, state: events.StatusState, now_s: float) -> Self:
        """With what is pending of a kind in another state."""
        view = self
        for part in self.work:
            if part.state == "pending" and isinstance(part, kind):
                view = view._putting(part, replace(part, state=state, duration_s=now_s - part.started_s))
        return view

    def _retries_over(self, how: str) -> Self:
        """With what became of the retries in place of the line that announced the last one."""
        for line in self.lines:
            if line.key == events.RETRY_KEY:
                many = "retry" if line.count == 1 else "retries"
                return self._putting(line, replace(line, key="", text=f"{how} after {line.count} {many}"))
        return self

    def _ended(self, state: TurnState, now_s: float, *, bad: bool = True) -> Self:
        view = self._retries_over({"done": "Answered", "stopped": "Stopped"}.get(state, "Gave up"))
        view = view._settled(Thought, "failed" if bad else "done", now_s)
        view = view._settled(StatusLine, "failed", now_s)
        return replace(view, state=state, elapsed_s=now_s - self.started_s)
