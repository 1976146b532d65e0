"""Listing, finding, promoting, rolling back and editing versions; refused logs; stores in trouble."""

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
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dspy_demo import mlflow_bridge
from dspy_demo.errors import (
    InvalidInput,
    NotFound,
    TrackingUnavailable,
    VersionNotFound,
    VersionNotLogged,
    VersionNotServable,
)
from dspy_demo.events import LMChoice
from dspy_demo.lm.choices import DEMO_MODEL
from dspy_demo.programs.registry import ProgramRegistry
from dspy_demo.settings import Settings
from dspy_demo.versions import LogRequest, Version, VersionStore, tracking
from dspy_demo.versions.tracking import DATABASE_NAME
from tests.fake_openai import free_port

pytestmark = pytest.mark.integration

DEMO = LMChoice(DEMO_MODEL)
REQUEST = LogRequest("demo", "chain_of_thought", DEMO, "kept")


# --- log ---


@pytest.mark.usefixtures("ready_files")
def test_many_at_once_on_one_database_are_as_many_versions(
    store: VersionStore, store_dir: Path, programs: ProgramRegistry
) -> None:
    stores = [VersionStore(Settings(data_dir=store_dir)), store]
    request = LogRequest("Frage 1.0 - größer", "predict", DEMO, "“ünïcode” 🙂", {"größe": "5 €"})
    with ThreadPoolExecutor(4) as threads:
        made = list(threads.map(lambda one: one.log(request, programs), stores * 2))
    assert store.versions(request.name) == sorted(made, key=lambda one: -one.version)
    assert sorted(version.version for version in made) == [1, 2, 3, 4]
    assert (made[0].description, made[0].tags) == (request.description, request.tags)


@pytest.mark.usefixtures("ready_files")
@pytest.mark.parametrize("broken", ["log_model_artifacts", "create_model_version", "finalize_logged_model"])
def test_what_fails_midway_leaves_nothing(
    store: VersionStore, programs: ProgramRegistry, name: str, broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, artifacts = store.tracking.client, store.tracking.artifact_root
    before = {path.name for path in artifacts.rglob("m-*")}

    def fail(*_: object, **__: object) -> None:
        raise OSError("No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(client, broken, fail)
        with pytest.raises(TrackingUnavailable):
            store.log(LogRequest(name, "predict", DEMO), programs)
    assert not client.search_registered_models(f"name='{name}'")
    assert not client.search_logged_models([store.tracking.experiment_id], f"name = '{name}'")
    assert {path.name for path in artifacts.rglob("m-*")} == before


def test_what_cannot_be_logged_is_refused(store: VersionStore, programs: ProgramRegistry, name: str) -> None:
    programs.module("predict").gate = threading.Lock()
    with pytest.raises(VersionNotLogged, match="cannot be copied"):
        store.log(LogRequest(name, "predict", DEMO), programs)
    with pytest.raises(NotFound):
        store.log(LogRequest(name, "nothing", DEMO), programs)
    for bad in ["", " ", "a/b", "a:b", "../x", "a@b", ".hidden", "x" * 121, "quote'd", "a\nb"]:
        with pytest.raises(InvalidInput):
            store.log(LogRequest(bad, "react", DEMO), programs)


def test_until_it_is_loaded_it_is_being_checked(
    store: VersionStore, programs: ProgramRegistry, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[Version] = []

    def look(*_: Any) -> None:
        rows.extend(store.checking)
        raise VersionNotLogged("No.")

    monkeypatch.setattr("dspy_demo.versions.trial.Trials.load_it_anew", look)
    with pytest.raises(VersionNotLogged):
        store.log(LogRequest(name, "predict", DEMO, "soon"), programs)
    (row,) = rows
    assert (row.name, row.description, row.checking, row.servable) == (name, "soon", True, False)
    assert store.checking == []


# --- look and change ---


def test_listed_and_found(store: VersionStore, name: str, three: list[Version]) -> None:
    assert store.versions(name) == three[::-1]
    everything = store.versions()
    assert [version for version in everything if version.name == name] == three[::-1]
    assert everything == sorted(everything, key=lambda version: version.created_at, reverse=True)
    assert (three[1].program, three[1].lm, three[1].servable) == ("predict", DEMO_MODEL, True)
    for form in ("models:/{}/2", "{}/2", " models:/{}/2 "):
        assert store.get(form.format(name)) == three[1]
    for reference in (f"{name}/9", f"{name}@nobody", "no-such-model/1", "no-such-model@champion"):
        with pytest.raises(VersionNotFound):
            store.get(reference)
    for reference in ("", "models:/", "demo", "models:/demo", "demo/latest", "m/demo@x", "/1"):
        with pytest.raises(InvalidInput):
            store.get(reference)
    for look in (store.versions, store.roll_back):
        with pytest.raises(VersionNotFound):
            look("no-such-model")
    link = store.link(three[0], "http://127.0.0.1:5000/")
    assert link == f"http://127.0.0.1:5000/#/models/{name}/versions/1"
    assert store.link(three[0]) == "", "a database has no pages"


def test_promote_roll_back_and_undo(
    store: VersionStore, store_dir: Path, name: str, three: list[Version]
) -> None:
    with pytest.raises(VersionNotFound, match="no champion before"):
        store.roll_back(name)
    assert store.promote(three[0].uri).aliases == ("champion",)
    assert store.previous_champion(name) is None
    store.promote(three[2].uri)
    store.promote(three[2].uri)  # again: nothing is forgotten
    assert store.previous_champion(name) == 1
    restarted = VersionStore(Settings(data_dir=store_dir))
    assert restarted.roll_back(name).version == 1
    assert [version.version for version in store.versions(name) if version.champion] == [1]
    assert store.roll_back(name).version == 3 == store.get(f"models:/{name}@champion").version
    with ThreadPoolExecutor(6) as threads:
        list(threads.map(store.promote, [version.uri for version in three] * 2))
    champion, previous = store.get(f"{name}@champion").version, store.previous_champion(name)
    assert previous is not None and previous != champion
    store.tracking.client.delete_model_version(name, str(previous))
    assert store.previous_champion(name) is None
    with pytest.raises(VersionNotFound):
        store.roll_back(name)


def test_describe_and_tag(store: VersionStore, three: list[Version]) -> None:
    uri = three[0].uri
    assert store.describe(uri, "  better \n").description == "better"
    assert store.describe(uri, "").description == ""
    tagged = store.tag(uri, {"quality": "good", "team/sub": "x=y"})
    assert tagged.tags == {"quality": "good", "team/sub": "x=y"}
    assert (tagged.program, tagged.lm) == ("predict", DEMO_MODEL)
    assert store.tag(uri, {}).tags == {}
    wrong = {"": "x", "program": "x", "mlflow.user": "x", "a//b": "x", "k" * 251: "x", "k": "v" * 2001}
    for key, value in wrong.items():
        with pytest.raises(InvalidInput):
            store.tag(uri, {key: value})
    with pytest.raises(InvalidInput):
        store.describe(uri, "x" * 5001)


@pytest.mark.filterwarnings("ignore")  # MLflow's own, about type hints and signatures
def test_versions_of_other_tools(store: VersionStore, name: str, tmp_path: Path) -> None:
    import dspy
    import mlflow.dspy
    import mlflow.pyfunc

    class Echo(mlflow.pyfunc.PythonModel):
        def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
            return model_input

    mlflow.pyfunc.save_model(str(tmp_path / "python"), python_model=Echo(), pip_requirements=["mlflow"])
    bare = dspy.ChainOfThought("question -> answer")
    mlflow.dspy.save_model(bare, str(tmp_path / "bare"), task="llm/v1/chat", pip_requirements=["dspy"])
    (tmp_path / "gone").mkdir()
    reasons = {"python": "Not a DSPy program", "bare": "", "gone": "cannot be read"}
    for folder, reason in reasons.items():
        client = store.tracking.client
        client.create_registered_model(f"{name}-{folder}")
        client.create_model_version(f"{name}-{folder}", str(tmp_path / folder))
        version = store.versions(f"{name}-{folder}")[0]
        assert version.servable == (not reason) and reason in version.reason, (folder, version.reason)
        assert (version.program, version.lm, version.same_code) == ("", "", False)
        with pytest.raises(VersionNotServable):
            store.load(version.uri)
        if reason:
            with pytest.raises(VersionNotServable, match="cannot be the champion"):
                store.promote(version.uri)


# --- a store that cannot be used: one sentence that helps, nothing half done, no version lost ---


@pytest.fixture
def database(store: VersionStore, tmp_path: Path) -> Path:
    """A database of this MLflow in a folder of its own, with nothing in it of this experiment."""
    (tmp_path / "data").mkdir()
    return Path(shutil.copy(store.tracking.data_dir / DATABASE_NAME, tmp_path / "data"))


def store_at(data_dir: Path, **settings: Any) -> VersionStore:
    return VersionStore(Settings(data_dir=data_dir, experiment="faults", **settings))


def refused(store: VersionStore) -> str:
    with pytest.raises(TrackingUnavailable) as caught:
        store.versions()
    return caught.value.public_message


def test_it_is_made_where_nothing_is_yet(tmp_path: Path, in_an_empty_folder: Path) -> None:
    steps: list[str] = []
    store = VersionStore(Settings(data_dir=tmp_path / "deep" / "data"))
    assert not store.ready
    store.prepare(steps.append)
    assert store.ready and steps == ["Loading MLflow", "Making the MLflow database", "MLflow is ready"]
    assert store.versions() == [] and (tmp_path / "deep" / "data" / "mlflow.db").is_file()
    relative = VersionStore(Settings(data_dir=tmp_path, tracking_uri="sqlite:///mine.db"))
    assert relative.tracking_uri == f"sqlite:///{in_an_empty_folder}/mine.db", "that of the start"


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

    restarted = store_at(database.parent)
    restarted.prepare()
    programs.module("predict").lock = threading.Lock()
    with pytest.raises(VersionNotLogged):
        restarted.log(replace(REQUEST, program="predict"), programs)
    restarted.log(REQUEST, programs)

    run = client.get_run(run_id)
    assert (run.info.status, run.info.lifecycle_stage) == ("RUNNING", "active")
    assert client.get_logged_model(training.model_id).status == training.status
    assert weights.read_bytes() == b"a night's work"


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
    assert len(list(database.parent.glob("artifacts/models/*"))) == 1


@pytest.fixture
def old_database(tmp_path: Path) -> Path:
    """As an older MLflow left it, with a registered version."""
    path = tmp_path / "data" / DATABASE_NAME
    path.parent.mkdir()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript((Path(__file__).parent / "old_mlflow.sql").read_text())
    return path


@pytest.mark.usefixtures("ready_files")
def test_a_folder_of_an_older_version_is_updated_and_kept(
    old_database: Path, programs: ProgramRegistry
) -> None:
    steps: list[str] = []
    content, store = old_database.read_bytes(), store_at(old_database.parent)
    store.prepare(steps.append)
    assert "Updating the MLflow database" in steps
    (old,) = store.versions()
    assert (old.uri, old.description, old.servable) == ("models:/old/7", "from before", False)
    assert store.log(REQUEST, programs).uri == "models:/demo/1"
    (before,) = old_database.parent.glob(f"{DATABASE_NAME}.before-*")
    assert before.read_bytes() == content


def test_an_update_that_fails_or_is_not_ours_changes_nothing(
    old_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = old_database.read_bytes()
    elsewhere = store_at(tmp_path / "mine", tracking_uri=f"sqlite:///{old_database}")
    assert refused(elsewhere) == tracking.OLDER_ELSEWHERE
    failed = subprocess.CompletedProcess([], 1, "", "the disk is full")
    monkeypatch.setattr(tracking.subprocess, "run", lambda *_, **__: failed)
    assert refused(store_at(old_database.parent)) == tracking.NOT_UPDATED
    assert old_database.read_bytes() == content
    assert {path.name for path in old_database.parent.iterdir()} == {DATABASE_NAME, f"{DATABASE_NAME}.lock"}


def test_a_database_that_this_mlflow_does_not_know_is_not_touched(database: Path) -> None:
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
    content = database.read_bytes()
    assert refused(store_at(database.parent)) == tracking.NEWER
    assert database.read_bytes() == content
    database.write_bytes(b"this is no database, but a text of some length. " * 100)
    assert refused(store_at(database.parent)) == tracking.NO_DATABASE


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


def test_a_folder_or_server_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    (tmp_path / "file").write_text("")
    refused(store_at(tmp_path / "file" / "data"))
    no_answer = TrackingUnavailable.default_message
    for status, body, sentence in (
        (500, b'{"stack_trace": "SECRET"}', no_answer),
        (200, b"<html>SECRET</html>", mlflow_bridge.NOT_MLFLOW),
        (401, b"SECRET", mlflow_bridge.LOGIN),
    ):
        with answering(status, body) as url:
            assert refused(store_at(tmp_path, tracking_uri=url)) == sentence
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for port in (silent.getsockname()[1], free_port()):
            assert refused(store_at(tmp_path, tracking_uri=f"http://127.0.0.1:{port}")) == no_answer
