"""The MLflow store behind the versions: where it is, how it is opened, and what its failures mean.

Everything goes through an `MlflowClient` with explicit URIs. MLflow's fluent API (``mlflow.log_model``,
``mlflow.set_tracking_uri``) keeps process-wide state, which a turn that is being traced would see.
"""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from filelock import FileLock

from dspy_demo.errors import DemoError, InvalidInput, TrackingError, TrackingUnavailable, VersionNotFound
from dspy_demo.settings import Settings
from dspy_demo.versions import schema

if TYPE_CHECKING:
    from mlflow import MlflowClient

T = TypeVar("T")
Progress = Callable[[str], None]

log = logging.getLogger(__name__)

#: How long a write may wait for another process that holds the SQLite file.
LOCKED_RETRY_S = 10.0
LOCKED_PAUSE_S = 0.02
#: In the data folder.
DATABASE_NAME = "mlflow.db"
_DATABASES = frozenset({"sqlite", "postgresql", "mysql", "mssql"})

DISK_FULL = "The disk with the data folder is full. Free some space, then try again."
READ_ONLY = (
    "The data folder cannot be written. Check the rights of --data-dir and whether its disk is mounted "
    "read-only, then try again."
)
LOCKED = "Another program keeps MLflow's database locked. Close it, then try again."
LOGIN = "The MLflow server asks for a login. Set MLFLOW_TRACKING_USERNAME and _PASSWORD, or _TOKEN."
NOT_MLFLOW = "What answers at the tracking address is not MLflow. Check --tracking-uri."


class Tracking:
    """The store of `settings`, opened on first use. Every method blocks: call it in a thread."""

    def __init__(self, settings: Settings) -> None:
        self.data_dir = settings.data_dir.expanduser().resolve()
        self.uri = _absolute(settings.tracking_uri) or f"sqlite:///{self.data_dir / DATABASE_NAME}"
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
        # Seven retries of 120 s each (mlflow 3.17) would hold a click for minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
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
            if database is not None and schema.is_outdated(database):
                self._upgrade(database, progress)
            return MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)

    def _upgrade(self, database: Path, progress: Progress) -> None:
        """Only the app's own database: another one may have readers that need it as it is."""
        if database != self.data_dir / DATABASE_NAME:
            raise TrackingUnavailable(schema.OLDER_ELSEWHERE)
        progress("Updating the MLflow database")
        before = schema.upgrade(database)
        log.warning("the MLflow database was updated; as it was before it is in %s", before)

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
    except Exception as error:
        raise _translated(error) from error


def _translated(error: Exception) -> DemoError:
    code = getattr(error, "error_code", "")
    if code == "RESOURCE_DOES_NOT_EXIST":
        return VersionNotFound()
    origin = error.__cause__ or error.__context__
    if code == "INVALID_PARAMETER_VALUE" and not isinstance(origin, OSError):
        return InvalidInput("MLflow refused one of the values. Check the name, the alias and the tags.")
    down = code in {"TEMPORARILY_UNAVAILABLE", "SERVICE_UNDER_MAINTENANCE"}
    chain = f"{error} {origin} {type(error).__module__}"
    local = isinstance(error, OSError | sqlite3.Error) or isinstance(origin, OSError)
    if local or down or "API request to" in chain or "sqlalchemy" in chain or "OperationalError" in chain:
        return TrackingUnavailable(_known_trouble(chain))
    return TrackingError()


def _known_trouble(chain: str) -> str:
    """The sentence for a cause that the user can mend; empty for any other.

    MLflow (3.17) wraps what SQLite, the disk or a server said, so that only the words are left of it.
    """
    return next((sentence for words, sentence in _TROUBLES if any(word in chain for word in words)), "")


_TROUBLES = (
    ((os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT), "database or disk is full"), DISK_FULL),
    (
        (os.strerror(errno.EROFS), os.strerror(errno.EACCES), "readonly database", "unable to open database"),
        READ_ONLY,
    ),
    (("database is locked",), LOCKED),
    (("error code 401", "error code 403"), LOGIN),
    (("not in a valid JSON format",), NOT_MLFLOW),
)


def _make_database(path: Path) -> None:
    """Make the tables in a folder beside `path`, then move the finished file to `path`.

    MLflow runs forty migrations, each by itself: two processes that make one database at once would leave it
    broken, and so would one that is killed meanwhile.
    """
    from mlflow import MlflowClient

    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):  # the kernel lets go of it when its process ends
        if path.exists():
            return
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f"{path.name}.making-") as folder:
            making = Path(folder, path.name)
            uri = f"sqlite:///{making}"
            MlflowClient(tracking_uri=uri, registry_uri=uri).search_experiments()
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
