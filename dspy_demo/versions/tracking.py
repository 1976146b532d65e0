"""The MLflow store behind versions and traces: where it is, and how it is opened.

Everything goes through an `MlflowClient` with explicit URIs: MLflow's fluent API (``mlflow.log_model``,
``mlflow.set_tracking_uri``) keeps process-wide state, which other users of MLflow in this process would see.
"""

from __future__ import annotations

import logging
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from filelock import FileLock

from dspy_demo.errors import TrackingError
from dspy_demo.mlflow_bridge import is_locked, tracking_errors
from dspy_demo.settings import Settings

if TYPE_CHECKING:
    from mlflow import MlflowClient

T = TypeVar("T")

LOCKED_RETRY_S = 10.0  # that a write may wait for another process that holds the SQLite file
DATABASE_NAME = "mlflow.db"
#: Loggers that repeat what we report, with the parameters of failed SQL, which are people's words.
_QUIET = {"mlflow": logging.CRITICAL, "alembic": logging.WARNING, "urllib3.connectionpool": logging.ERROR}


class Tracking:
    """The store of `settings`, opened on first use. Every method blocks: call it in a thread."""

    def __init__(self, settings: Settings) -> None:
        self.data_dir = settings.data_dir.expanduser().resolve()
        self.uri = settings.tracking_uri or f"sqlite:///{self.data_dir / DATABASE_NAME}"
        self.database: Path | None = None  # the file of an SQLite store
        if self.uri.startswith("sqlite:///"):  # it means the same when the working folder is another
            self.database = Path(self.uri.removeprefix("sqlite:///")).expanduser().resolve()
            self.uri = f"sqlite:///{self.database}"
        self.remote = self.uri.startswith(("http://", "https://"))  # else we open a database
        self.artifact_root = self.data_dir / "artifacts"  # of a database store; a server decides for itself
        self.experiment_id = ""  # until the store was opened
        self._experiment = settings.experiment
        self._client: MlflowClient | None = None
        self._lock, self._writing = threading.Lock(), threading.Lock()

    @property
    def ready(self) -> bool:
        return self._client is not None

    @property
    def client(self) -> MlflowClient:
        return self.prepare()

    def prepare(self) -> MlflowClient:
        """Open the store, making the database and the experiment where there are none: up to 4 s."""
        with self._lock:
            if self._client is None:
                with tracking_errors():
                    self._client = self._open()
            return self._client

    def write(self, action: Callable[[], T]) -> T:
        """Run a write. SQLite has one writer, so ours wait for each other, and for other processes."""
        if self.remote:  # a slow server must not hold up other writes
            with tracking_errors():
                return action()
        deadline = time.monotonic() + LOCKED_RETRY_S
        while True:
            try:
                with self._writing, tracking_errors():
                    return action()
            except TrackingError as error:
                if not is_locked(error) or time.monotonic() > deadline:
                    raise
            time.sleep(0.02)

    def _open(self) -> MlflowClient:
        with warnings.catch_warnings(action="ignore"):  # of MLflow's own type hints
            import mlflow.artifacts
            import mlflow.dspy  # noqa: F401
            from mlflow import MlflowClient
        for name, level in _QUIET.items():
            logging.getLogger(name).setLevel(level)
        self.data_dir.mkdir(parents=True, exist_ok=True)
        with FileLock(self.data_dir / f"{DATABASE_NAME}.lock"):  # two that make the tables would break them
            client = MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)
            found = client.get_experiment_by_name(self._experiment)
            if found is None:
                # Without a location MLflow puts the artifacts of a database store into ./mlruns.
                location = None if self.remote else self.artifact_root.as_uri()
                made = client.create_experiment(self._experiment, artifact_location=location)
            elif found.lifecycle_stage != "active":
                client.restore_experiment(found.experiment_id)
            self.experiment_id = str(found.experiment_id if found else made)
        return client
