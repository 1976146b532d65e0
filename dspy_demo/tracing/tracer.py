"""`Tracer`: takes the records of turns at once, writes them when MLflow can.

One thread writes; a bounded queue is before it, so nothing on the event loop waits for MLflow. What cannot be
written after some tries is dropped; the chat goes on, `notice` says so.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Literal

from dspy_demo.events import LMChoice, LocalTarget, TurnRequest
from dspy_demo.logs import kinds
from dspy_demo.mlflow_bridge import Traces, trace_url, tracking_errors
from dspy_demo.settings import Settings
from dspy_demo.tracing.record import TurnRecord
from dspy_demo.versions.secrets import known_secrets
from dspy_demo.versions.tracking import Tracking

log = logging.getLogger(__name__)

WAITING_MAX = 1000  # turns and ratings; a record is some tens of kB
#: Seconds before each further try of a write. A model server may be about to write the trace of a rating.
RETRY_WAITS_S = (1.0, 5.0)
FAILING = (
    "MLflow does not take answers or ratings just now, so they are not recorded. "
    "Check its server, or the data folder's disk; the log has the details. The chat goes on."
)


class Tracer:
    """Writes each turn as one trace into the versions' store; without settings it is off. `notice` is one
    sentence for the page while traces cannot be written; `serves` names a served version.
    """

    notice: str | None = None

    def __init__(
        self, settings: Settings | None = None, tracking: Tracking | None = None, *, serves: str = ""
    ) -> None:
        self._settings = settings or Settings(tracing=False)
        self._tracking = tracking or Tracking(self._settings)
        self._serves = serves
        self._traces: Traces | None = None
        self._waiting: queue.Queue[Callable[[], None] | threading.Event] = queue.Queue(WAITING_MAX)
        self._worker: threading.Thread | None = None
        self._closing = threading.Event()

    @property
    def state(self) -> Literal["off", "ok", "failing"]:
        if not self._settings.tracing:
            return "off"
        return "failing" if self.notice else "ok"

    def begin(self, request: TurnRequest) -> TurnRecord | None:
        """A record for a turn that starts now, or None where turns are not traced."""
        return TurnRecord(request, self._serves) if self._settings.tracing else None

    def finish(self, record: TurnRecord) -> None:
        """Take a record at the end of its turn."""
        record.close()
        if not record.traced_elsewhere:
            self._put(partial(self._write, record))

    def feedback(self, trace_id: str, value: bool | None, comment: str | None = None, user: str = "") -> None:
        """Make this the one rating of an answer by `user`: thumbs up, down, or None to take it back."""
        if self._settings.tracing:
            self._put(partial(self._rate, trace_id, value, (comment or "").strip(), user or "visitor"))

    def link(self, trace_id: str, ui_url: str) -> str | None:
        """The trace on MLflow's pages at `ui_url`; None while the store was not opened yet."""
        if not self._tracking.ready:
            return None
        return trace_url(ui_url, self._tracking.experiment_id, trace_id)

    def flush(self, timeout_s: float) -> bool:
        """Wait until all is written or dropped; whether it was."""
        reached = threading.Event()
        return not self._worker or (self._put(reached) and reached.wait(timeout_s))

    def close(self, timeout_s: float) -> bool:
        """Flush without more tries. Call it in a thread."""
        self._closing.set()
        return self.flush(timeout_s)

    def _put(self, job: Callable[[], None] | threading.Event) -> bool:
        if self._worker is None:
            self._worker = threading.Thread(target=self._run, name="tracer", daemon=True)
            self._worker.start()
        with suppress(queue.Full):
            self._waiting.put_nowait(job)
            return True
        return False

    # The thread's side

    def _run(self) -> None:
        while True:
            job = self._waiting.get()
            if isinstance(job, threading.Event):
                job.set()
            else:
                self._try(job)

    def _try(self, write: Callable[[], None]) -> None:
        """Write a trace or rating; after some tries it is dropped."""
        for wait_s in (*RETRY_WAITS_S, None):
            try:
                write()
                self.notice = None
                return
            except Exception as error:  # a thread that ends would leave every later turn unrecorded
                self.notice = FAILING
                if wait_s is None:
                    # The texts of the causes hold SQL with people's words in it, or addresses.
                    log.warning("a trace or rating was dropped: %s", kinds(error))
                else:
                    self._closing.wait(wait_s)

    def _write(self, record: TurnRecord) -> None:
        """Write a record as a trace; a second time it changes nothing."""
        traces = self._open()
        from dspy_demo.tracing.spans import spans_of

        # Nothing of these should be in a record. The longest first: one may be a part of another.
        target = record.request.target
        choice = target.lm if isinstance(target, LocalTarget) else LMChoice("")
        secrets = sorted(known_secrets(self._settings, choice), key=len, reverse=True)
        spans = list(spans_of(record, secrets))
        self._tracking.write(lambda: traces.write(self._tracking.experiment_id, spans))

    def _rate(self, trace_id: str, value: bool | None, comment: str, user: str) -> None:
        traces = self._open()
        self._tracking.write(lambda: traces.rate(trace_id, value, comment, user))

    def _open(self) -> Traces:
        self._tracking.prepare()
        if self._traces is None:
            with tracking_errors():
                self._traces = Traces(self._tracking.uri)
        return self._traces
