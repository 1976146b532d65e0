"""What we use of MLflow that it does not document: four parts, written for MLflow 3.17.

Each says what it is for and what happens without it. Importing MLflow takes seconds: functions do so.
"""

from __future__ import annotations

import json
import pickle
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from dspy_demo.errors import DemoError, InvalidInput, TrackingError, TrackingUnavailable, VersionNotFound

if TYPE_CHECKING:
    from mlflow.entities import Span
    from mlflow.tracing.client import TracingClient

LOCKED = "Another program keeps MLflow's database locked. Close it, then try again."
LOGIN = "The MLflow server asks for a login. Set MLFLOW_TRACKING_USERNAME and _PASSWORD, or _TOKEN."
OUTDATED = (
    "The MLflow database was made by another version of MLflow. If by an older one, copy it, then run "
    "“mlflow db upgrade sqlite:////PATH/TO/mlflow.db”; else update this app's packages."
)
#: MLflow wraps what SQLite, the disk or a server said, so that only the words of it are left. Were they
#: changed, the sentence of `TrackingUnavailable` or `TrackingError` would be shown.
_TROUBLES = {
    "database is locked": LOCKED,
    "out-of-date database schema": OUTDATED,
    "error code 401": LOGIN,
    "error code 403": LOGIN,
    "API request to": TrackingUnavailable.default_message,
    "sqlalchemy": TrackingUnavailable.default_message,
    "OperationalError": TrackingUnavailable.default_message,
}


@contextmanager
def tracking_errors() -> Iterator[None]:
    """MLflow's failures as ours; their text, which may hold addresses and keys, goes to the log only."""
    try:
        yield
    except DemoError:
        raise
    except Exception as error:
        raise _translated(error) from error


def is_locked(error: TrackingError) -> bool:
    """Whether another connection was writing to the SQLite file, so that trying again makes sense."""
    return "database is locked" in str(error.__cause__)


def _translated(error: Exception) -> DemoError:
    code = getattr(error, "error_code", "")
    if code == "RESOURCE_DOES_NOT_EXIST":
        return VersionNotFound()
    origin = error.__cause__ or error.__context__
    if code == "INVALID_PARAMETER_VALUE" and not isinstance(origin, OSError):
        return InvalidInput("MLflow refused one of the values. Check the name, the alias and the tags.")
    chain = f"{error} {origin} {type(error).__module__}"
    sentence = next((sentence for words, sentence in _TROUBLES.items() if words in chain), "")
    unusable = isinstance(error, OSError | sqlite3.Error) or isinstance(origin, OSError)
    return TrackingUnavailable(sentence) if sentence or unusable else TrackingError()


def read_program(folder: Path, unpickler: type[pickle.Unpickler]) -> Any:
    """The program that `mlflow.dspy.save_model` wrote, without setting this process's ``dspy.settings``.

    `mlflow.dspy.load_model`, which is documented, sets them, and fails in any thread but the first one.
    Without the path in the flavor, or the wrapper's ``model``, **Use here** says that it cannot be loaded.
    """
    from mlflow.models import Model

    with (folder / Model.load(str(folder)).flavors["dspy"]["model_path"]).open("rb") as file:
        return unpickler(file).load().model


def version_url(ui_url: str, name: str, version: int) -> str:
    """A version on MLflow's pages. Were their addresses changed, they would open at their start."""
    return f"{ui_url.rstrip('/')}/#/models/{quote(name, safe='')}/versions/{version}"


def trace_url(ui_url: str, experiment_id: str, trace_id: str) -> str:
    """A trace on MLflow's pages: the experiment's list of traces, of any age, with this one open."""
    traces = f"{ui_url.rstrip('/')}/#/experiments/{experiment_id}/traces"
    return f"{traces}?startTimeLabel=ALL&selectedEvaluationId={trace_id}"


#: Name of the assessment that a thumb makes.
FEEDBACK_NAME = "user_feedback"


class Traces:
    """Writes finished traces, each with one call, under ids that we choose: ``TracingClient.log_spans``.

    From the root span's attributes MLflow makes the trace, in one transaction or request. Its documented API
    needs live spans, 20 ms for each trace, and chooses the id when the turn is over, too late for a link on
    the page. Without these parts no trace is written, `Tracer.notice` says so, and the chat goes on.
    """

    def __init__(self, tracking_uri: str) -> None:
        from mlflow.tracing.client import TracingClient

        self._client: TracingClient = TracingClient(tracking_uri)

    def write(self, experiment_id: str, spans: list[Span]) -> None:
        self._client.log_spans(experiment_id, spans)

    def rate(self, trace_id: str, value: bool | None, comment: str, user: str) -> None:
        """Make this the one rating of a user; None removes it."""
        from mlflow.entities import AssessmentSource, Feedback

        for given in self._client.get_trace_info(trace_id).assessments:
            if given.name == FEEDBACK_NAME and given.source.source_id == user:
                self._client.delete_assessment(trace_id, given.assessment_id)
        if value is not None:
            source = AssessmentSource("HUMAN", user)
            feedback = Feedback(FEEDBACK_NAME, value, source=source, rationale=comment)
            self._client.log_assessment(trace_id, feedback)


def span(
    ids: tuple[str, int],
    name: str,
    times_ns: tuple[int, int],
    *,
    outcome: str,
    error: str,
    attributes: Mapping[str, str],
) -> Span:
    """A span that has ended; `attributes` by the names of ``mlflow.tracing.constant``, each value as JSON.

    `ids` are the trace's and a number, 0 for the root, then counted: the span's id follows from both.
    """
    from mlflow.entities import Span
    from mlflow.tracing.constant import SpanAttributeKey
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.trace import SpanContext, Status, StatusCode, TraceFlags

    trace_id, number = ids
    trace = int(trace_id.removeprefix("tr-"), 16)

    def context(number: int) -> SpanContext:
        span_id = (trace + number) % 2**64 or 2**63  # 0 is no span
        return SpanContext(trace, span_id, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))

    codes = {"finished": StatusCode.OK, "failed": StatusCode.ERROR}
    return Span(
        ReadableSpan(
            name=name,
            context=context(number),
            parent=context(0) if number else None,
            start_time=times_ns[0],
            end_time=max(times_ns),
            attributes={SpanAttributeKey.REQUEST_ID: json.dumps(trace_id), **attributes},
            status=Status(codes.get(outcome, StatusCode.UNSET), error or None),
            resource=Resource.get_empty(),  # a made one costs more than the span
        )
    )
