"""The MLflow store behind versions and traces: where it is, and how it is opened.

Everything goes through an `MlflowClient` with explicit URIs. MLflow's fluent API (``mlflow.log_model``,
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
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from filelock import FileLock

from dspy_demo.errors import TrackingError, TrackingUnavailable
from dspy_demo.mlflow_bridge import is_locked, quiet, schema_revisions, tracking_errors
from dspy_demo.settings import Settings

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

NEWER = (
    "The MLflow database was made by a newer version of MLflow. Update this app's packages "
    "(pip install -r requirements.txt), or give another --data-dir."
)
OLDER_ELSEWHERE = "The MLflow database is of an older MLflow. Back it up, then run “mlflow db upgrade” on it."
NOT_UPDATED = "The older MLflow database could not be updated. It is as it was; the log says more."
NO_DATABASE = "The file of the MLflow database is not one. Move it away, or give another --data-dir."


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
    def database(self) -> Path | None:
        """The SQLite file, where the store is one."""
        return Path(self.uri.removeprefix("sqlite:///")) if self.uri.startswith("sqlite:///") else None

    @property
    def artifact_root(self) -> Path:
        """Where artifacts of a database store go; a server decides for itself."""
        return self.data_dir / "artifacts"

    def prepare(self, progress: Progress = lambda _: None) -> MlflowClient:
        """Open the store, making the database and the experiment where there are none.

        The import takes 2 s, and the first database another 1 to 2.

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
        """Run a write. SQLite has one writer, so ours wait for each other, and for other processes.

        Raises:
            TrackingUnavailable, TrackingError: It failed.
        """
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
            time.sleep(LOCKED_PAUSE_S)

    def _open(self, progress: Progress) -> MlflowClient:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of MLflow's own type hints
            import mlflow.artifacts
            import mlflow.dspy  # noqa: F401
            from mlflow import MlflowClient
        quiet()
        with tracking_errors():
            if (database := self.database) is not None:
                if not database.exists():
                    progress("Making the MLflow database")
                    _make_database(database)
                if is_outdated(database):
                    if database != self.data_dir / DATABASE_NAME:  # another's readers may need it as it is
                        raise TrackingUnavailable(OLDER_ELSEWHERE)
                    progress("Updating the MLflow database")
                    upgrade(database)
            return MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)

    def _make_experiment(self, client: MlflowClient) -> str:
        from mlflow.exceptions import MlflowException

        found = client.get_experiment_by_name(self.experiment)
        if found is None:
            # Without a location MLflow puts the artifacts of a database store into ./mlruns.
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


def _absolute(uri: str | None) -> str | None:
    """A tracking URI that does not depend on the folder in which the app was started later."""
    if uri and uri.startswith("sqlite:///") and not uri.startswith("sqlite:////") and ":" not in uri[10:]:
        return f"sqlite:///{Path(uri.removeprefix('sqlite:///')).expanduser().resolve()}"
    return uri or None


def _make_database(path: Path) -> None:
    """Make the tables in a folder beside `path`, then move the finished file to `path`.

    MLflow runs forty migrations, each by itself: two processes that make one database at once would leave it
    broken, and so would one that is killed meanwhile.
    """
    from mlflow import MlflowClient

    with _alone(path) as making:
        if not path.exists():
            uri = f"sqlite:///{making}"
            MlflowClient(tracking_uri=uri, registry_uri=uri).search_experiments()
            making.rename(path)


def is_outdated(database: Path) -> bool:
    """Whether `database` has the tables of an older MLflow.

    Raises:
        TrackingUnavailable: It has those of a newer one, or is no database.
    """
    revision = _revision(database)
    newest, known = schema_revisions()
    if not revision or not newest or revision == newest:  # empty: MLflow makes the tables
        return False
    if revision not in known:
        raise TrackingUnavailable(NEWER)
    return True


def upgrade(database: Path) -> None:
    """Bring the tables up to date; beside them stays a copy of the database as it was.

    ``mlflow db upgrade`` runs on a copy, which then takes the name: its migrations are no one transaction,
    and killed half way they would leave neither the old tables nor the new ones.

    Raises:
        TrackingUnavailable: It failed; the database is as it was.
    """
    before = database.with_name(f"{database.name}.before-{_revision(database)}")
    with _alone(database) as making:
        if not is_outdated(database):  # another process was faster
            return
        with closing(sqlite3.connect(database)) as old, closing(sqlite3.connect(making)) as new:
            old.backup(new)
        command = [sys.executable, "-m", "mlflow", "db", "upgrade", f"sqlite:///{making}"]
        done = subprocess.run(command, cwd=making.parent, capture_output=True, text=True, check=False)  # noqa: S603
        if done.returncode != 0 or is_outdated(making):
            log.error("mlflow db upgrade failed: %s", done.stderr.strip()[-1000:])
            raise TrackingUnavailable(NOT_UPDATED)
        before.unlink(missing_ok=True)
        before.hardlink_to(database)
        making.replace(database)
    log.warning("the MLflow database was updated; as it was before it is in %s", before)


def _revision(database: Path) -> str:
    """The last migration of a database; empty for one without tables."""
    with closing(sqlite3.connect(database, timeout=5)) as connection:
        try:
            if not connection.execute("SELECT 1 FROM sqlite_master WHERE name='alembic_version'").fetchall():
                return ""
            rows = connection.execute("SELECT version_num FROM alembic_version").fetchall()
        except sqlite3.OperationalError:  # it is locked
            raise
        except sqlite3.DatabaseError as error:
            raise TrackingUnavailable(NO_DATABASE) from error
    return str(rows[0][0]) if rows else ""


@contextmanager
def _alone(database: Path) -> Iterator[Path]:
    """A path beside a database, for one that is to take its place; no other process makes one meanwhile."""
    database.parent.mkdir(parents=True, exist_ok=True)
    with (
        FileLock(f"{database}.lock"),  # the kernel lets go of it when its process ends
        tempfile.TemporaryDirectory(dir=database.parent, prefix=f"{database.name}.making-") as folder,
    ):
        yield Path(folder, database.name)
