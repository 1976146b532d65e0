"""A database that another MLflow made: brought up to date where it is ours, else said."""

from __future__ import annotations

import contextlib
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock

from dspy_demo.errors import TrackingUnavailable

NEWER = (
    "The MLflow database was made by a newer version of MLflow. Update this app's packages "
    "(pip install -r requirements.txt), or give another --data-dir."
)
OLDER_ELSEWHERE = (
    "The MLflow database was made by an older version of MLflow. Back it up, then run "
    "“mlflow db upgrade” on it."
)
NO_DATABASE = "The file of the MLflow database is not one. Move it away, or give another --data-dir."


def is_outdated(database: Path) -> bool:
    """Whether `database` has the tables of an older MLflow.

    Raises:
        TrackingUnavailable: It has those of a newer one, or is no database.
    """
    revision = _revision(database)
    if revision is None:  # empty: MLflow makes the tables
        return False
    # As `mlflow.store.db.utils._get_latest_schema_revision` (3.17) finds it.
    from alembic.script import ScriptDirectory
    from mlflow.store.db.utils import _get_alembic_config

    scripts = ScriptDirectory.from_config(_get_alembic_config(db_url=""))
    if revision == scripts.get_current_head():
        return False
    if revision not in {script.revision for script in scripts.walk_revisions()}:
        raise TrackingUnavailable(NEWER)
    return True


def upgrade(database: Path) -> Path:
    """Bring the tables up to date, and give the copy of the database as it was before.

    The migrations run in a file beside it, which then takes its name: they are no one transaction (mlflow
    3.17), and killed half way they would leave neither the old tables nor the new ones.
    """
    from mlflow.store.db.utils import _upgrade_db
    from sqlalchemy import create_engine

    before = database.with_name(f"{database.name}.before-{_revision(database)}")
    with FileLock(f"{database}.lock"):
        if not is_outdated(database):  # another process was faster
            return before
        if before.exists():  # the copy of an earlier update, which is kept too
            before = before.with_name(f"{before.name}-{int(time.time())}")
        with tempfile.TemporaryDirectory(dir=database.parent, prefix=f"{database.name}.making-") as folder:
            upgraded = Path(folder, database.name)
            with _opened(database) as old, contextlib.closing(sqlite3.connect(upgraded)) as new:
                old.backup(new)
            engine = create_engine(f"sqlite:///{upgraded}")
            try:
                _upgrade_db(engine)
            finally:
                engine.dispose()
            before.hardlink_to(database)
            upgraded.replace(database)
    return before


def _revision(database: Path) -> str | None:
    with _opened(database) as connection:
        try:
            rows = connection.execute("SELECT version_num FROM alembic_version").fetchall()
        except sqlite3.OperationalError as error:
            if "no such table" in str(error):
                return None
            raise
        except sqlite3.DatabaseError as error:
            raise TrackingUnavailable(NO_DATABASE) from error
    return str(rows[0][0]) if rows else None


@contextlib.contextmanager
def _opened(database: Path) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(database, timeout=5)) as connection:
        yield connection
