"""When the store cannot be used: one sentence that helps, nothing half done, and no version lost."""

from __future__ import annotations

import contextlib
import http.server
import shutil
import socket
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from dspy_demo import mlflow_bridge
from dspy_demo.errors import TrackingUnavailable, VersionNotLogged
from dspy_demo.events import LMChoice
from dspy_demo.programs.own import spec_of
from dspy_demo.programs.registry import ProgramRegistry
from dspy_demo.settings import Settings
from dspy_demo.versions import tracking
from dspy_demo.versions.store import VersionStore
from dspy_demo.versions.tracking import DATABASE_NAME
from dspy_demo.versions.version import LogRequest

pytestmark = pytest.mark.integration

BUILTIN = LMChoice("demo/engine")
REQUEST = LogRequest("demo", "chain_of_thought", BUILTIN, "kept")


@pytest.fixture
def database(store: VersionStore, tmp_path: Path) -> Path:
    """A database of this MLflow in a folder of its own, with nothing in it of this experiment."""
    (tmp_path / "data").mkdir()
    return Path(shutil.copy(store.tracking.data_dir / DATABASE_NAME, tmp_path / "data"))


def store_at(data_dir: Path, **settings: object) -> VersionStore:
    return VersionStore(
        Settings(data_dir=data_dir, experiment="faults", **settings)  # type: ignore[arg-type]
    )


def refused(store: VersionStore) -> str:
    with pytest.raises(TrackingUnavailable) as caught:
        store.versions()
    return caught.value.public_message


def logged_files(data_dir: Path) -> int:
    return len(list(data_dir.glob("artifacts/models/*")))


# --- what others keep in the same store ---


@pytest.mark.usefixtures("ready_files")
def test_what_others_left_running_is_never_touched(database: Path, programs: ProgramRegistry) -> None:
    """A training of another team in the same experiment, with a tag as this app writes it."""
    store = store_at(database.parent)
    client, experiment_id = store.tracking.client, store.tracking.experiment_id
    long_ago_ms = int((time.time() - 3600) * 1000)
    run_id = client.create_run(experiment_id, long_ago_ms, tags={"app_version": "9.1"}).info.run_id
    training = client.create_logged_model(experiment_id, "training", run_id)
    weights = Path(training.artifact_location.removeprefix("file://"), "weights.bin")
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"a night's work")
    half_made = database.with_name(f"{DATABASE_NAME}.1.making")
    half_made.touch()

    restarted = store_at(database.parent)
    restarted.prepare()
    with pytest.raises(VersionNotLogged):
        restarted.log(replace(REQUEST, program="broken"), with_a_lock())
    restarted.log(REQUEST, programs)

    run = client.get_run(run_id)
    assert (run.info.status, run.info.lifecycle_stage) == ("RUNNING", "active")
    assert client.get_logged_model(training.model_id).status == training.status
    assert weights.read_bytes() == b"a night's work" and half_made.exists()


def with_a_lock() -> ProgramRegistry:
    """One program, ``broken``, which cannot be saved."""
    import dspy

    module = dspy.Predict("question -> answer")
    module.lock = threading.Lock()
    return ProgramRegistry([spec_of(module, name="broken")])


@pytest.mark.usefixtures("ready_files")
def test_a_database_that_another_program_locks(
    database: Path, programs: ProgramRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "LOCKED_RETRY_S", 0)
    store = store_at(database.parent)
    store.prepare()
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(TrackingUnavailable) as caught:
            store.log(REQUEST, programs)
        other.execute("ROLLBACK")
    assert caught.value.public_message == mlflow_bridge.LOCKED
    assert store.log(REQUEST, programs).version == 1
    assert logged_files(database.parent) == 1


# --- the database of another MLflow ---

#: MLflow 2.9's last migration; by now there are tables that it does not know.
OLD_REVISION = "acf3f17fdcc7"


@pytest.fixture
def old_database(tmp_path: Path) -> Path:
    """As MLflow 2.9 left it, with a registered version."""
    from alembic import command
    from mlflow.store.db.utils import _get_alembic_config
    from mlflow.store.tracking.dbmodels.initial_models import Base
    from sqlalchemy import create_engine

    path = tmp_path / "data" / DATABASE_NAME
    path.parent.mkdir()
    engine = create_engine(f"sqlite:///{path}")
    Base.metadata.create_all(engine)
    command.upgrade(_get_alembic_config(f"sqlite:///{path}"), OLD_REVISION)
    engine.dispose()
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("INSERT INTO registered_models (name, creation_time) VALUES ('old', 1)")
        connection.execute(
            "INSERT INTO model_versions "
            "(name, version, creation_time, description, current_stage, status, source) "
            "VALUES ('old', 7, 1, 'from before', 'None', 'READY', '/nowhere')"
        )
    return path


@pytest.mark.usefixtures("ready_files")
def test_a_folder_of_an_older_version_is_updated_and_kept(
    old_database: Path, programs: ProgramRegistry
) -> None:
    said: list[str] = []
    store = store_at(old_database.parent)
    store.prepare(said.append)
    assert "Updating the MLflow database" in said
    (old,) = store.versions()
    assert (old.uri, old.description, old.servable) == ("models:/old/7", "from before", False)
    assert store.log(REQUEST, programs).uri == "models:/demo/1"
    before = old_database.with_name(f"{DATABASE_NAME}.before-{OLD_REVISION}")
    assert tracking.is_outdated(before) and not tracking.is_outdated(old_database)
    assert not list(old_database.parent.glob("*.making"))


def test_an_update_that_fails_changes_nothing(old_database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = subprocess.CompletedProcess([], 1, "", "the disk is full")
    monkeypatch.setattr(tracking.subprocess, "run", lambda *_, **__: failed)
    content = old_database.read_bytes()
    assert refused(store_at(old_database.parent)) == tracking.NOT_UPDATED
    assert old_database.read_bytes() == content
    assert {path.name for path in old_database.parent.iterdir()} == {DATABASE_NAME, f"{DATABASE_NAME}.lock"}


def test_an_older_database_elsewhere_is_not_touched(old_database: Path, tmp_path: Path) -> None:
    content = old_database.read_bytes()
    store = store_at(tmp_path / "mine", tracking_uri=f"sqlite:///{old_database}")
    assert refused(store) == tracking.OLDER_ELSEWHERE
    assert old_database.read_bytes() == content


def test_a_database_of_a_newer_mlflow_is_not_touched(database: Path) -> None:
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
    content = database.read_bytes()
    assert refused(store_at(database.parent)) == tracking.NEWER
    assert database.read_bytes() == content


def test_a_file_that_is_no_database(database: Path) -> None:
    database.write_bytes(b"this is no database, but a text of some length. " * 100)
    assert refused(store_at(database.parent)) == tracking.NO_DATABASE


# --- the tracking server ---


@contextlib.contextmanager
def answering(status: int, body: bytes) -> Iterator[str]:
    """A server that answers everything so."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("status", "body", "sentence"),
    [
        (500, b'{"stack_trace": "SECRET"}', TrackingUnavailable.default_message),
        (200, b"<html>SECRET</html>", mlflow_bridge.NOT_MLFLOW),
        (401, b"SECRET", mlflow_bridge.LOGIN),
    ],
)
def test_a_server_that_answers_wrongly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, body: bytes, sentence: str
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with answering(status, body) as url:
        assert refused(store_at(tmp_path, tracking_uri=url)) == sentence


def test_a_server_that_never_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert refused(store_at(tmp_path, tracking_uri=url)) == TrackingUnavailable.default_message
