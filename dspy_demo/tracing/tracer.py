"""`MlflowTracer`: takes the records of turns at once, writes them when MLflow can.

One daemon thread writes; a bounded queue is before it. When MLflow is down, slow, locked or full, the
records wait, then the newest are dropped; the chat goes on, `notice` says so, and the log says it once.
MLflow is imported and its database made by the thread, after the first turn: 3 to 8 s that nobody waits for.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

from dspy_demo.errors import DemoError, TrackingUnavailable, VersionNotFound
from dspy_demo.events import TurnRequest
from dspy_demo.logs import kinds
from dspy_demo.settings import Settings
from dspy_demo.tracing.base import NoTracer, Tracer
from dspy_demo.tracing.record import TurnRecord
from dspy_demo.tracing.store import Rating, TraceStore
from dspy_demo.versions.tracking import Tracking

log = logging.getLogger(__name__)

#: Turns and ratings that may wait; a record is some tens of kB.
WAITING_MAX = 1000
#: Traces in one write: 32 cost 6 ms each, one alone 20 ms (mlflow 3.17 on SQLite).
BATCH_MAX = 32
#: How long a record waits for others.
LINGER_S = 0.25
RETRY_FIRST_S, RETRY_MAX_S = 0.5, 15.0
#: After so many failures in a row it is tried which of the waiting ones is at fault.
ONE_BY_ONE_AFTER = 3
#: So often one may fail where others do not, before it is given up.
STRIKES_MAX = 3
#: A rating may be here before the trace, which another process writes.
TRACE_EXPECTED_S = 15.0
#: A write that takes longer is told. Making the database takes 8 s where everything is slow.
SLOW_S = 20.0

DOWN = "MLflow cannot be reached, so answers are not being recorded just now. The chat goes on."
DATABASE_DOWN = (
    "MLflow's database cannot be written, so answers are not being recorded just now. "
    "Check its folder and disk. The chat goes on."
)
SLOW = "MLflow is very slow, so answers are recorded late. The chat goes on."
REFUSED = "MLflow refused to record an answer. The log has the details. The chat goes on."
RATING_LOST = "A rating could not be saved: MLflow does not have the answer's trace."

THREAD = "tracer"
#: urllib3 warns of each retry; mlflow 3.17 logs each failed statement with its parameters, the users' words.
NOISY_LOGGERS = ("urllib3.connectionpool", "mlflow.store.db.utils")

Item = TurnRecord | Rating


def tracer_for(settings: Settings, tracking: Tracking, *, serves: str = "") -> Tracer:
    """The tracer of an app, or with `serves` of the model server of that version."""
    return MlflowTracer(settings, tracking, serves=serves) if settings.tracing else NoTracer()


class MlflowTracer:
    """Writes each turn as one trace; see `base.Tracer`.

    Args:
        tracking: The store that the versions are in too (``VersionStore.tracking``).
        serves: The version that this process is the model server of, where it is one.
    """

    def __init__(self, settings: Settings, tracking: Tracking, *, serves: str = "") -> None:
        self._serves = serves
        self._remote = tracking.remote
        self._store = TraceStore(tracking, settings)
        self._waiting: queue.Queue[Item | None] = queue.Queue(WAITING_MAX)
        self._worker: threading.Thread | None = None
        self._hurry = threading.Event()
        self._closing = False
        self._trouble: str | None = None
        self._failures = 0
        self._strikes: Counter[str] = Counter()
        self._writing_since: float | None = None
        self.dropped = 0

    # The chat's side

    @property
    def notice(self) -> str | None:
        since = self._writing_since
        if self._trouble is None and since is not None and time.monotonic() - since > SLOW_S:
            return SLOW
        return self._trouble

    def begin(self, request: TurnRequest) -> TurnRecord | None:
        return TurnRecord.of(request, serves=self._serves)

    def finish(self, record: TurnRecord) -> None:
        if record.ended_ns:
            return
        record.close()
        if not record.traced_elsewhere:
            self._put(record)

    def feedback(self, trace_id: str, value: bool | None, comment: str | None = None, user: str = "") -> None:
        self._put(Rating(trace_id, value, (comment or "").strip(), user or "visitor"))

    def link(self, trace_id: str, ui_url: str) -> str | None:
        return self._store.link(trace_id, ui_url)

    def flush(self, timeout_s: float) -> bool:
        done = self._waiting.all_tasks_done
        self._hurry.set()
        try:
            with done:
                return done.wait_for(lambda: not self._waiting.unfinished_tasks, timeout_s)
        finally:
            self._hurry.clear()

    def close(self, timeout_s: float) -> bool:
        written = self.flush(timeout_s)
        if not written:
            log.warning("the app ends with %d traces not written", self._waiting.unfinished_tasks)
        self._closing = True
        self._hurry.set()
        with contextlib.suppress(queue.Full):
            self._waiting.put_nowait(None)
        return written

    def _put(self, item: Item) -> None:
        if self._worker is None:
            for name in NOISY_LOGGERS:
                logging.getLogger(name).addFilter(_not_ours)
            self._worker = threading.Thread(target=self._run, name=THREAD, daemon=True)
            self._worker.start()
        try:
            self._waiting.put_nowait(item)
        except queue.Full:
            self.dropped += 1

    # The thread's side

    def _run(self) -> None:
        """Write what waits, in order; what failed is tried again together with what came since."""
        pending: list[Item] = []
        while not self._closing:
            pending += self._gather(BATCH_MAX - len(pending), wait=not pending)
            before = len(pending)
            pending = self._deliver(pending)
            for _ in range(before - len(pending)):
                self._waiting.task_done()
            if pending:
                self._pause()

    def _gather(self, room: int, *, wait: bool) -> list[Item]:
        items: list[Item | None] = []
        if wait:
            items.append(self._waiting.get())
            self._hurry.wait(LINGER_S)
        with contextlib.suppress(queue.Empty):
            while len(items) < room:
                items.append(self._waiting.get_nowait())
        return [item for item in items if item is not None]

    def _deliver(self, items: list[Item]) -> list[Item]:
        """Write `items`; gives back those to try again. Ratings come after the traces they may belong to."""
        records = [item for item in items if isinstance(item, TurnRecord)]
        left: list[Item] = [*self._write(records)]
        if not left:
            return [item for item in items if isinstance(item, Rating) and not self._rate(item)]
        return left + [item for item in items if isinstance(item, Rating)]

    def _write(self, records: Sequence[TurnRecord]) -> Sequence[TurnRecord]:
        if not records:
            return []
        error = self._try(partial(self._store.write, records))
        if error is None:
            return []
        if _passes(error) and (self._failures < ONE_BY_ONE_AFTER or len(records) == 1):
            return records
        return self._write_one_by_one(records)

    def _write_one_by_one(self, records: Sequence[TurnRecord]) -> Sequence[TurnRecord]:
        """Find the one at fault: what fails again and again while others can be written is given up."""
        left, failed, written = list(records), 0, 0
        for record in random.sample(left, len(left)):
            error = self._try(partial(self._store.write, [record]))
            if error is None:
                written += 1
                left.remove(record)
            elif _passes(error):
                failed += 1
                self._strikes[record.trace_id] += 1
            else:
                self._strikes[record.trace_id] = STRIKES_MAX
            if failed >= 2 and not written:  # an outage, then, and nobody's fault
                self._strikes.clear()
                return left
        refused = [record for record in left if self._strikes[record.trace_id] >= STRIKES_MAX]
        if refused:
            self._lose(len(refused), REFUSED)
        return [record for record in left if record not in refused]

    def _rate(self, rating: Rating) -> bool:
        """Whether a rating is dealt with."""
        error = self._try(partial(self._store.rate, rating), expected=VersionNotFound)
        if error is None:
            return True
        if isinstance(error, VersionNotFound):
            if time.monotonic() - rating.given_at < TRACE_EXPECTED_S:
                return False
            self._lose(1, RATING_LOST)
            return True
        if _passes(error):
            return False
        self._lose(1, REFUSED)
        return True

    def _try(self, write: Callable[[], None], expected: type[DemoError] | tuple[()] = ()) -> Exception | None:
        """Run a write; its error, if any. The first error of an outage is logged, and its end."""
        self._writing_since = time.monotonic()
        try:
            write()
        except expected as error:
            return error
        except Exception as error:  # a thread that ends would leave every later turn unrecorded
            self._failures += 1
            if self._trouble is None:
                # The texts of the causes hold SQL with people's words in it, or addresses.
                log.warning("traces cannot be written now: %s", kinds(error))
                log.debug("the first error of the outage", exc_info=error)
            if _passes(error):
                self._trouble = DOWN if self._remote else DATABASE_DOWN
            return error
        finally:
            self._writing_since = None
        if self._failures:
            log.warning("traces are written again; %d were dropped so far", self.dropped)
        self._failures, self._trouble = 0, None
        return None

    def _lose(self, count: int, notice: str) -> None:
        self.dropped += count
        self._trouble = notice

    def _pause(self) -> None:
        wait_s = min(RETRY_FIRST_S * 2 ** max(0, min(self._failures, 10) - 1), RETRY_MAX_S)
        if self._hurry.wait(wait_s):
            time.sleep(0.05)


def _not_ours(entry: logging.LogRecord) -> bool:
    """Drops what others log of each attempt of this thread: we log an outage once."""
    return entry.threadName != THREAD


def _passes(error: Exception) -> bool:
    """Whether trying again makes sense: MLflow is down, or not installed, rather than refusing."""
    return isinstance(error, TrackingUnavailable | ImportError | OSError)
