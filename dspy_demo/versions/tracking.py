"""The MLflow store behind versions and traces: where it is, and how it is opened.

Everything goes through an `MlflowClient` with explicit URIs: MLflow's fluent API (``mlflow.log_model``,
``mlflow.set_tracking_uri``) keeps process-wide state, which other users of MLflow in this process would see.
"""

from __future__ import annotations

import logging
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import warnings
import zlib
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from filelock import FileLock

from dspy_demo.errors import TrackingError, TrackingUnavailable
from dspy_demo.mlflow_bridge import is_locked, tracking_errors
from dspy_demo.settings import Settings

if TYPE_CHECKING:
    from mlflow import MlflowClient

T = TypeVar("T")
log = logging.getLogger(__name__)

#: How long a write may wait for another process that holds the SQLite file.
LOCKED_RETRY_S = 10.0
DATABASE_NAME = "mlflow.db"
#: Loggers that repeat what we report, with the parameters of failed SQL, which are people's words.
_QUIET = {"mlflow": logging.CRITICAL, "alembic": logging.WARNING, "urllib3.connectionpool": logging.ERROR}
NOT_UPDATED = (
    "The MLflow database could not be updated, and is as it was; the log says more. If a newer MLflow made "
    "it, update this app's packages (pip install -r requirements.txt), or give another --data-dir."
)


class Tracking:
    """The store of `settings`, opened on first use. Every method blocks: call it in a thread."""

    def __init__(self, settings: Settings) -> None:
        self.data_dir = settings.data_dir.expanduser().resolve()
        self.uri = settings.tracking_uri or f"sqlite:///{self.data_dir / DATABASE_NAME}"
        #: The file of an SQLite store; none of a server's or another database's.
        self.database: Path | None = None
        if self.uri.startswith("sqlite:///"):  # it means the same when the working folder is another
            self.database = Path(self.uri.removeprefix("sqlite:///")).expanduser().resolve()
            self.uri = f"sqlite:///{self.database}"
        self._experiment = settings.experiment
        self._client: MlflowClient | None = None
        self._experiment_id = ""
        self._lock = threading.RLock()
        self._writing = threading.Lock()

    @property
    def remote(self) -> bool:
        """Whether a tracking server of its own holds the store; else it is a database we open."""
        return self.uri.startswith(("http://", "https://"))

    @property
    def ready(self) -> bool:
        return bool(self._experiment_id)

    @property
    def artifact_root(self) -> Path:
        """Where artifacts of a database store go; a server decides for itself."""
        return self.data_dir / "artifacts"

    @property
    def client(self) -> MlflowClient:
        with self._lock:
            if self._client is None:
                self._client = self._open()
            return self._client

    @property
    def experiment_id(self) -> str:
        self.prepare()
        return self._experiment_id

    def prepare(self) -> None:
        """Open the store, making the database and the experiment where there are none: up to 4 s."""
        with self._lock:
            if not self._experiment_id:
                with tracking_errors():
                    self._experiment_id = self._make_experiment(self.client)

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
        with tracking_errors():
            if self.database is None:
                return MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)
            self.data_dir.mkdir(parents=True, exist_ok=True)
            own = self.database == self.data_dir / DATABASE_NAME
            with FileLock(self.data_dir / f"{DATABASE_NAME}.lock"):  # two at once would leave it broken
                if own and self.database.exists():
                    _update(self.database)
                client = MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)
                client.search_experiments()  # makes the tables
                if own and _user_version(self.database) != _this_mlflow():
                    _user_version(self.database, _this_mlflow())
                return client

    def _make_experiment(self, client: MlflowClient) -> str:
        from mlflow.exceptions import MlflowException

        found = client.get_experiment_by_name(self._experiment)
        # Without a location MLflow puts the artifacts of a database store into ./mlruns.
        location = None if self.remote else self.artifact_root.as_uri()
        if found is None:
            try:
                return str(client.create_experiment(self._experiment, artifact_location=location))
            except MlflowException:
                if (found := client.get_experiment_by_name(self._experiment)) is None:
                    raise  # else another process was faster
        if found.lifecycle_stage != "active":
            client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)


def _update(database: Path) -> None:
    """Give a database of another MLflow the tables of this one; as it was before, it stays beside it.

    ``mlflow db upgrade`` runs on a copy, which then takes the name: its migrations are no one transaction.
    """
    if _user_version(database) == _this_mlflow():
        return
    with tempfile.TemporaryDirectory(dir=database.parent, prefix=f"{database.name}.making-") as folder:
        making, before = Path(folder, database.name), database.with_name(f"{database.name}.before-update")
        with closing(sqlite3.connect(database)) as old, closing(sqlite3.connect(making)) as new:
            old.backup(new)
        command = [sys.executable, "-m", "mlflow", "db", "upgrade", f"sqlite:///{making}"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)  # noqa: S603
        if done.returncode != 0:
            log.error("mlflow db upgrade failed: %s", done.stderr.strip()[-1000:])
            raise TrackingUnavailable(NOT_UPDATED)
        before.unlink(missing_ok=True)
        before.hardlink_to(database)
        making.replace(database)


def _this_mlflow() -> int:
    from mlflow import __version__

    return zlib.crc32(str(__version__).encode()) >> 1


def _user_version(database: Path, new: int | None = None) -> int:
    """SQLite's number for the application's use: here, whose tables the database has."""
    with closing(sqlite3.connect(database, timeout=5)) as connection:
        if new is not None:
            connection.execute(f"PRAGMA user_version = {new}")
        return int(connection.execute("PRAGMA user_version").fetchone()[0])
