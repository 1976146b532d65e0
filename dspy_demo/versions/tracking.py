"""The MLflow store behind the versions: where it is, how it is opened, and what its failures mean.

Everything goes through an `MlflowClient` with explicit URIs. MLflow's fluent API (``mlflow.log_model``,
``mlflow.set_tracking_uri``) keeps process-wide state, which a turn that is being traced would see.
"""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from dspy_demo.errors import DemoError, InvalidInput, TrackingError, TrackingUnavailable, VersionNotFound
from dspy_demo.settings import Settings

if TYPE_CHECKING:
    from mlflow import MlflowClient

T = TypeVar("T")
Progress = Callable[[str], None]

log = logging.getLogger(__name__)

#: How long a write may wait for another process that holds the SQLite file.
LOCKED_RETRY_S = 10.0
LOCKED_PAUSE_S = 0.02
_DATABASES = frozenset({"sqlite", "postgresql", "mysql", "mssql"})


class Tracking:
    """The store of `settings`, opened on first use. Every method blocks: call it in a thread."""

    def __init__(self, settings: Settings) -> None:
        self.data_dir = settings.data_dir.expanduser().resolve()
        self.uri = _absolute(settings.tracking_uri) or f"sqlite:///{self.data_dir / 'mlflow.db'}"
        self.experiment = settings.experiment
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

    def prepare(self, progress: Progress = lambda _: None) -> MlflowClient:
        """Open the store, making the database and the experiment where there are none.

        The import takes 2 s and the first database another 1 to 2 (mlflow 3.17).

        Raises:
            TrackingUnavailable: The server does not answer, or the folder cannot be written.
        """
        with self._lock:
            if self._client is None:
                progress("Loading MLflow")
                self._client = self._open(progress)
            if not self._experiment_id:
                with tracking_errors():
                    self._experiment_id = self._make_experiment(self._client)
                progress("MLflow is ready")
            return self._client

    @property
    def client(self) -> MlflowClient:
        return self.prepare()

    @property
    def experiment_id(self) -> str:
        self.prepare()
        return self._experiment_id

    def write(self, action: Callable[[], T]) -> T:
        """Run a write; SQLite has one writer, so ours wait for each other, and for other processes."""
        deadline = time.monotonic() + LOCKED_RETRY_S
        while True:
            try:
                with self._writing, tracking_errors():
                    return action()
            except TrackingError as error:
                if "database is locked" not in str(error.__cause__) or time.monotonic() > deadline:
                    raise
            time.sleep(LOCKED_PAUSE_S)

    def _open(self, progress: Progress) -> MlflowClient:
        # Seven retries with exponential waits (mlflow 3.17) would hold a click for minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "15")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # mlflow 3.17 warns about type hints of its own
            import mlflow.artifacts
            import mlflow.dspy
            import mlflow.models.rag_signatures
            import mlflow.pyfunc  # noqa: F401
            from mlflow import MlflowClient
        _quiet()
        with tracking_errors():
            database = _sqlite_path(self.uri)
            if database is not None and not database.exists():
                progress("Making the MLflow database")
                _make_database(database)
            return MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)

    def _make_experiment(self, client: MlflowClient) -> str:
        from mlflow.exceptions import MlflowException

        found = client.get_experiment_by_name(self.experiment)
        if found is None:
            # Without a location MLflow (3.17) puts the artifacts of a database store into ./mlruns.
            location = self.artifact_root.as_uri() if urlsplit(self.uri).scheme in _DATABASES else None
            try:
                return str(client.create_experiment(self.experiment, artifact_location=location))
            except MlflowException:  # another process was faster
                found = client.get_experiment_by_name(self.experiment)
                if found is None:
                    raise
        if found.lifecycle_stage != "active":
            client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)


@contextmanager
def tracking_errors() -> Iterator[None]:
    """MLflow's failures as ours; their text, which may hold addresses and keys, goes to the log only."""
    try:
        yield
    except DemoError:
        raise
    except (OSError, sqlite3.Error) as error:
        raise TrackingUnavailable() from error
    except Exception as error:
        raise _translated(error) from error


def _translated(error: Exception) -> DemoError:
    code = getattr(error, "error_code", "")
    if code == "RESOURCE_DOES_NOT_EXIST":
        return VersionNotFound()
    if code == "INVALID_PARAMETER_VALUE":
        return InvalidInput("MLflow refused one of the values. The log says which.")
    down = code in {"TEMPORARILY_UNAVAILABLE", "SERVICE_UNDER_MAINTENANCE"}
    chain = f"{error} {error.__cause__} {type(error).__module__}"
    if down or "API request to" in chain or "sqlalchemy" in chain or "OperationalError" in chain:
        return TrackingUnavailable()
    return TrackingError()


def _make_database(path: Path) -> None:
    """Make the tables in a file beside `path`, which then takes its name.

    Two processes that make one database at once leave it broken, and so does one that is killed meanwhile
    (mlflow 3.17 runs forty migrations, each by itself).
    """
    from mlflow import MlflowClient

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f"{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists():
            return
        for left in path.parent.glob(f"{path.name}.*.making"):  # by a process that was killed
            left.unlink()
        making = path.with_name(f"{path.name}.{os.getpid()}.making")
        MlflowClient(
            tracking_uri=f"sqlite:///{making}", registry_uri=f"sqlite:///{making}"
        ).search_experiments()
        making.rename(path)


def _absolute(uri: str | None) -> str | None:
    """A tracking URI that does not depend on the folder in which the app was started later."""
    if uri and uri.startswith("sqlite:///") and not uri.startswith("sqlite:////") and ":" not in uri[10:]:
        return f"sqlite:///{Path(uri.removeprefix('sqlite:///')).expanduser().resolve()}"
    return uri or None


def _sqlite_path(uri: str) -> Path | None:
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


def _quiet() -> None:
    """MLflow and alembic log their table migrations at INFO to stderr; warnings still come through."""
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("mlflow.dspy.save").addFilter(_not_about_pickle)


def _not_about_pickle(record: Any) -> bool:
    """The warning that a pickle can run code when loaded: `versions.loading` says it where it matters."""
    return "by Pickle or CloudPickle" not in str(record.msg)
