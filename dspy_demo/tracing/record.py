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


@dataclass(slots=True)
class Call:
    """A call of a model or a tool below the turn.

    Attributes:
        name: The predictor's step, such as ``react#2``, or the tool's name.
        inputs: The messages, or the tool's arguments.
        error: The kind of error; empty where it ended well.
    """

    kind: Literal["lm", "tool"]
    name: str
    inputs: Any
    model: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    started_ns: int = field(default_factory=time.time_ns)
    ended_ns: int = 0
    outputs: Any = None
    error: str = ""
    stopped: bool = False
    usage: Usage | None = None


@dataclass(slots=True, eq=False)
class TurnRecord:
    """One turn from its start to its end.

    Attributes:
        request: Its keys are here to be found and left out, never written.
        serves: The version that this process is the model server of, or empty.
        trace_id: Chosen here, so that the page can link to it at once.
        traced_elsewhere: The model server that runs this turn writes its trace.
    """

    request: TurnRequest
    serves: str = ""
    trace_id: str = field(default_factory=lambda: f"tr-{secrets.token_hex(16)}")
    started_ns: int = field(default_factory=time.time_ns)
    ended_ns: int = 0
    calls: list[Call] = field(default_factory=list)
    deltas: list[FieldDelta] = field(default_factory=list)
    end: TurnFinished | TurnFailed | None = None
    traced_elsewhere: bool = False
    _running: dict[str, Call] = field(default_factory=dict)

    def hear(self, event: Event) -> None:
        """Note an event; called for every token."""
        match event:
            case FieldDelta():
                self.deltas.append(event)
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
        if isinstance(self.end, TurnFinished):
            self.deltas.clear()  # its end has the outputs
        self.ended_ns = time.time_ns()
        for call in self._running.values():
            call.ended_ns, call.stopped = self.ended_ns, True
        self._running.clear()

    def lm_started(
        self, call_id: str, step: str, model: str, messages: Any, settings: Mapping[str, Any]
    ) -> None:
        self._start(call_id, Call("lm", step, messages, model, settings))

    def tool_started(self, call_id: str, name: str, arguments: Any) -> None:
        self._start(call_id, Call("tool", name, arguments))

    def call_ended(self, call_id: str, outputs: Any, error: BaseException | None) -> Call | None:
        """End a call; gives it back, or None where it is not recorded."""
        call = self._running.pop(call_id, None)
        if call is not None:
            call.ended_ns, call.outputs = time.time_ns(), outputs
            call.stopped = error is not None and not isinstance(error, Exception)  # CancelledError
            call.error = type(error).__name__ if isinstance(error, Exception) else ""
        return call

    def _start(self, call_id: str, call: Call) -> None:
        if not self.ended_ns:
            self._running[call_id] = call
            self.calls.append(call)

    @property
    def outcome(self) -> Literal["finished", "failed", "stopped"]:
        if isinstance(self.end, TurnFinished):
            return "finished"
        return "failed" if self.end else "stopped"

    @property
    def outputs(self) -> dict[str, Any]:
        """The output fields; of a turn that did not finish, what had streamed of them."""
        if isinstance(self.end, TurnFinished):
            return dict(self.end.outputs)
        streamed: dict[str, str] = {}
        for delta in self.deltas:
            name = f"{delta.step}.{delta.field}" if delta.step else delta.field
            streamed[name] = streamed.get(name, "") + delta.text
        return streamed

    @property
    def usage(self) -> Usage:
        """Of the whole turn: as it was told at the end, else what the calls that ended had used."""
        if isinstance(self.end, TurnFinished):
            return self.end.usage
        used = [call.usage for call in self.calls if call.usage]
        return Usage(sum(u.prompt_tokens for u in used), sum(u.completion_tokens for u in used))


#: The record of the turn that this task runs; None where turns are not traced.
current_record: ContextVar[TurnRecord | None] = ContextVar("current_record", default=None)
