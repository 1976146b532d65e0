"""What happened in a turn, as plain values with times. No MLflow, no I/O: this is on the event loop.

Times are in nanoseconds since the epoch. Of a failed call only the kind of error is kept: an exception's text
may hold a key or an address.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal, assert_never

from dspy_demo.events import (
    Event,
    FieldDelta,
    Status,
    TurnFailed,
    TurnFinished,
    TurnRequest,
    TurnStarted,
    Usage,
)

Outcome = Literal["finished", "failed", "stopped"]


@dataclass(slots=True)
class Call:
    """A call of a model or a tool below the turn."""

    kind: Literal["lm", "tool"]
    name: str  # the predictor's step, such as ``react#2``, or the tool's
    inputs: Any  # the messages, or the tool's arguments
    model: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    started_ns: int = field(default_factory=time.time_ns)
    ended_ns: int = 0
    outcome: Outcome = "stopped"
    outputs: Any = None
    error: str = ""  # its kind
    usage: Usage | None = None


@dataclass(slots=True, eq=False)
class TurnRecord:
    """One turn from its start to its end. The request's keys are here to be left out, never written."""

    request: TurnRequest
    serves: str = ""  # the version that this process is the model server of
    #: Chosen here, so that the page can link to it at once.
    trace_id: str = field(default_factory=lambda: f"tr-{secrets.token_hex(16)}")
    started_ns: int = field(default_factory=time.time_ns)
    ended_ns: int = 0
    calls: list[Call] = field(default_factory=list)
    streamed: dict[str, list[str]] = field(default_factory=dict)
    end: TurnFinished | TurnFailed | None = None
    traced_elsewhere: bool = False  # the model server that runs this turn writes its trace
    _running: dict[str, Call] = field(default_factory=dict)

    def hear(self, event: Event) -> None:
        """Note an event; called for every token."""
        match event:
            case FieldDelta(step=step, field=name, text=text):
                self.streamed.setdefault(f"{step}.{name}" if step else name, []).append(text)
            case TurnFinished() | TurnFailed():
                self.end = event
            case TurnStarted() | Status():
                pass
            case _:
                assert_never(event)
        if isinstance(event, TurnStarted | TurnFinished) and event.trace_id not in {None, self.trace_id}:
            self.traced_elsewhere = True

    def close(self) -> None:
        """The turn is over: what still runs was stopped with it. Later calls are not recorded."""
        self.ended_ns = time.time_ns()
        for call in self._running.values():
            call.ended_ns = self.ended_ns
        self._running.clear()

    def call_started(self, call_id: str, call: Call) -> None:
        if not self.ended_ns:
            self._running[call_id] = call
            self.calls.append(call)

    def call_ended(
        self, call_id: str, outputs: Any, error: BaseException | None, *, usage: Usage | None = None
    ) -> None:
        if call := self._running.pop(call_id, None):
            call.ended_ns, call.outputs, call.usage = time.time_ns(), outputs, usage
            if isinstance(error, Exception):  # else a CancelledError, or none
                call.outcome, call.error = "failed", type(error).__name__
            elif error is None:
                call.outcome = "finished"

    @property
    def outcome(self) -> Outcome:
        if isinstance(self.end, TurnFinished):
            return "finished"
        return "failed" if self.end else "stopped"

    @property
    def outputs(self) -> dict[str, Any]:
        """The output fields; of a turn that did not finish, what had streamed of them."""
        if isinstance(self.end, TurnFinished):
            return dict(self.end.outputs)
        return {name: "".join(texts) for name, texts in self.streamed.items()}

    @property
    def usage(self) -> Usage:
        """Of the whole turn: as it was told at the end, else what the calls that ended had used."""
        if isinstance(self.end, TurnFinished):
            return self.end.usage
        used = [call.usage for call in self.calls if call.usage]
        return Usage(sum(u.prompt_tokens for u in used), sum(u.completion_tokens for u in used))


#: The record of the turn that this task runs; None where turns are not traced.
current_record: ContextVar[TurnRecord | None] = ContextVar("current_record", default=None)
