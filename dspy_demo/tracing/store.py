"""Writes records as MLflow traces, and ratings as assessments. MLflow is imported in functions only.

A trace is written whole, when the turn is over, by one call of ``log_spans`` for many turns at once
(mlflow 3.17): from the root span's attributes it makes the trace, with the id that we chose, in one
transaction on a database and in one request to a server. The fluent API needs 20 ms for each trace and
live spans while the turn runs, and chooses the id itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING, TypeVar

from dspy_demo import collector
from dspy_demo.events import LMChoice
from dspy_demo.settings import Settings
from dspy_demo.tracing.base import trace_url
from dspy_demo.tracing.record import TurnRecord
from dspy_demo.tracing.spans import spans_of
from dspy_demo.versions.confidential import SECRET_MIN_CHARS, known_secrets
from dspy_demo.versions.tracking import Tracking, tracking_errors

if TYPE_CHECKING:
    from mlflow.tracing.client import TracingClient

T = TypeVar("T")

#: Name of the assessment that a thumb makes.
FEEDBACK_NAME = "user_feedback"


@dataclass(frozen=True, slots=True)
class Rating:
    """A thumb. `value` None takes it back."""

    trace_id: str
    value: bool | None
    comment: str
    user: str
    given_at: float = field(default_factory=monotonic)


class TraceStore:
    """The traces in the store of `tracking`. Every method blocks."""

    def __init__(self, tracking: Tracking, settings: Settings) -> None:
        self._tracking = tracking
        self._settings = settings
        self._client: TracingClient | None = None

    def write(self, records: Sequence[TurnRecord]) -> None:
        """Write records as traces; again with the same records it changes nothing.

        Raises:
            TrackingUnavailable: The store cannot be used now.
            TrackingError: It refuses them.
        """
        client = self._open()
        spans = [span for record in records for span in spans_of(record, self._secrets(record))]
        self._do(lambda: client.log_spans(self._tracking.experiment_id, spans))

    def rate(self, rating: Rating) -> None:
        """Make the one assessment of this user on a trace be `rating`, or be gone.

        Raises:
            VersionNotFound: There is no such trace, or not yet.
            TrackingUnavailable: The store cannot be used now.
        """
        client = self._open()
        self._do(lambda: _rate(client, rating))

    def link(self, trace_id: str, ui_url: str) -> str | None:
        if not self._tracking.ready:
            return None
        return trace_url(ui_url, self._tracking.experiment_id, trace_id)

    def _open(self) -> TracingClient:
        self._tracking.prepare()
        if self._client is None:
            with tracking_errors():
                from mlflow.tracing.client import TracingClient

                self._client = TracingClient(self._tracking.uri)
                collector.keep_what_is_loaded()
        return self._client

    def _do(self, action: Callable[[], T]) -> T:
        """Run a write. Writers of a database wait for each other; a slow server must hold up no one else."""
        if not self._tracking.remote:
            return self._tracking.write(action)
        with tracking_errors():
            return action()

    def _secrets(self, record: TurnRecord) -> list[str]:
        """What must not be written, though nothing of it should be in a record."""
        known = set(known_secrets(self._settings, LMChoice("")))
        known |= {key.get_secret_value() for key in record.keys}
        return sorted((key for key in known if len(key) >= SECRET_MIN_CHARS), key=len, reverse=True)


def _rate(client: TracingClient, rating: Rating) -> None:
    from mlflow.entities import AssessmentSource, Feedback

    found = [
        assessment
        for assessment in client.get_trace_info(rating.trace_id).assessments
        if assessment.name == FEEDBACK_NAME and assessment.source.source_id == rating.user
    ]
    keep = found[:1] if rating.value is not None else []
    for assessment in found[len(keep) :]:
        client.delete_assessment(rating.trace_id, assessment.assessment_id)
    if rating.value is None:
        return
    feedback = Feedback(
        name=FEEDBACK_NAME,
        value=rating.value,
        rationale=rating.comment,  # "" and not None, which would keep the old one
        source=AssessmentSource("HUMAN", rating.user),
    )
    if keep:
        client.update_assessment(rating.trace_id, keep[0].assessment_id, feedback)
    else:
        client.log_assessment(rating.trace_id, feedback)
