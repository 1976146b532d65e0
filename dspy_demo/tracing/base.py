"""What the chat knows of a tracer, and the one for an app that does not trace."""

from __future__ import annotations

from typing import Protocol

from dspy_demo.events import TurnRequest
from dspy_demo.tracing.record import TurnRecord


class Tracer(Protocol):
    """Takes the records of turns. Only `flush` and `close` wait; the rest may be called in the event loop."""

    @property
    def notice(self) -> str | None:
        """One sentence for the page while traces cannot be written, else None."""

    def begin(self, request: TurnRequest) -> TurnRecord | None:
        """A record for a turn that starts now, or None where it is not to be traced."""

    def finish(self, record: TurnRecord) -> None:
        """Take a record at the end of its turn. Safe to call twice."""

    def feedback(self, trace_id: str, value: bool | None, comment: str | None = None, user: str = "") -> None:
        """Rate an answer: thumbs up, down, or None to take the rating back.

        Each `user` has one rating per trace, and each call replaces it, the comment too.
        """

    def link(self, trace_id: str, ui_url: str) -> str | None:
        """The trace on MLflow's pages at `ui_url`; None while the store was not opened yet."""

    def flush(self, timeout_s: float) -> bool:
        """Wait until all is written, at most `timeout_s`; whether it was. Blocks: call it in a thread."""

    def close(self, timeout_s: float) -> bool:
        """`flush`, then end."""


class NoTracer:
    """Tracing is off."""

    notice: str | None = None

    def begin(self, request: TurnRequest) -> TurnRecord | None:
        return None

    def finish(self, record: TurnRecord) -> None: ...

    def feedback(
        self, trace_id: str, value: bool | None, comment: str | None = None, user: str = ""
    ) -> None: ...

    def link(self, trace_id: str, ui_url: str) -> str | None:
        return None

    def flush(self, timeout_s: float) -> bool:
        return True

    def close(self, timeout_s: float) -> bool:
        return True


def trace_url(ui_url: str, experiment_id: str, trace_id: str) -> str:
    """A trace on MLflow's pages (3.17): the experiment's list of traces, of any age, with this one open."""
    traces = f"{ui_url.rstrip('/')}/#/experiments/{experiment_id}/traces"
    return f"{traces}?startTimeLabel=ALL&selectedEvaluationId={trace_id}"
