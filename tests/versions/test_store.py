"""Listing, finding, promoting, rolling back and editing versions; refused logs; stores in trouble."""

from __future__ import annotations

import shutil
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from mlflow.models import Model

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


@pytest.mark.usefixtures("ready_files")
def test_many_at_once_on_one_database_are_as_many_versions(
    store: VersionStore, store_dir: Path, programs: ProgramRegistry
) -> None:
    stores = [VersionStore(Settings(data_dir=store_dir)), store]
    request = LogRequest("Frage 1.0 - größer", "predict", DEMO, "“ünïcode” 🙂", {"größe": "5 €"})
    with ThreadPoolExecutor(4) as threads:
        made = list(threads.map(lambda one: one.log(request, programs), stores * 2))
    assert sorted(version.version for version in made) == [1, 2, 3, 4]
    found = [version for version in store.versions() if version.name == request.name]
    by_number = sorted(found, key=lambda version: version.version)
    assert by_number == sorted(made, key=lambda version: version.version)
    assert (made[0].description, made[0].tags) == (request.description, request.tags)


@pytest.mark.usefixtures("ready_files")
def test_what_fails_midway_leaves_nothing(
    store: VersionStore, programs: ProgramRegistry, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, artifacts = store.tracking.client, store.tracking.artifact_root
    before = {path.name for path in artifacts.rglob("m-*")}

    def fail(*_: object, **__: object) -> None:
        raise OSError("No space left on device")

    for broken in ("log_model_artifacts", "create_model_version"):
        with monkeypatch.context() as patched:
            patched.setattr(client, broken, fail)
            with pytest.raises(TrackingUnavailable):
                store.log(LogRequest(name, "predict", DEMO), programs)
        assert not [version for version in store.versions() if version.name == name]
        assert not client.search_logged_models([store.tracking.experiment_id], f"name = '{name}'")
        assert {path.name for path in artifacts.rglob("m-*")} == before


def test_what_cannot_be_logged_is_refused(store: VersionStore, programs: ProgramRegistry, name: str) -> None:
    programs.module("predict").gate = threading.Lock()
    with pytest.raises(VersionNotLogged, match="cannot be copied"):
        store.log(LogRequest(name, "predict", DEMO), programs)
    with pytest.raises(NotFound):
        store.log(LogRequest(name, "nothing", DEMO), programs)
    for bad in [" ", "a/b", "a:b", "../x", "a@b", ".hidden", "x" * 121, "quote'd", "a\nb"]:
        with pytest.raises(InvalidInput):
            store.log(LogRequest(bad, "react", DEMO), programs)


def test_listed_and_found(store: VersionStore, name: str, three: list[Version]) -> None:
    everything = store.versions()
    assert [version for version in everything if version.name == name] == three[::-1]
    assert everything == sorted(everything, key=lambda version: version.created_at, reverse=True)
    assert store.get(f" models:/{name}/2 ") == store.get(f"{name}/2") == three[1]
    for reference in (f"{name}/9", f"{name}@nobody", "no-such-model/1"):
        with pytest.raises(VersionNotFound):
            store.get(reference)
    for reference in ("", "models:/demo", "demo/latest", "m/demo@x", "/1"):
        with pytest.raises(InvalidInput):
            store.get(reference)


def test_promote_roll_back_and_undo(
    store: VersionStore, store_dir: Path, name: str, three: list[Version]
) -> None:
    with pytest.raises(VersionNotFound, match="no champion before"):
        store.roll_back(name)
    assert store.promote(three[0].uri).aliases == ("champion",)
    store.promote(three[2].uri)
    store.promote(three[2].uri)  # again: nothing is forgotten
    assert store.previous_champion(name) == 1
    restarted = VersionStore(Settings(data_dir=store_dir))
    assert restarted.roll_back(name).version == 1
    assert store.roll_back(name).version == 3 == store.get(f"models:/{name}@champion").version
    with ThreadPoolExecutor(6) as threads:
        list(threads.map(store.promote, [version.uri for version in three] * 2))
    champion, previous = store.get(f"{name}@champion").version, store.previous_champion(name)
    assert previous is not None and previous != champion
    store.tracking.client.delete_model_version(name, str(previous))
    with pytest.raises(VersionNotFound):
        store.roll_back(name)


def test_edit(store: VersionStore, three: list[Version]) -> None:
    uri = three[0].uri
    edited = store.edit(uri, "  better \n", {"quality": "good", "team/sub": "x=y"})
    assert (edited.description, edited.tags) == ("better", {"quality": "good", "team/sub": "x=y"})
    edited = store.edit(uri, "", {})
    assert (edited.program, edited.description, edited.tags) == ("predict", "", {})
    for key, value in {"program": "x", "mlflow.user": "x", "a//b": "x", "k": "v" * 2001}.items():
        with pytest.raises(InvalidInput):
            store.edit(uri, "", {key: value})


def test_versions_of_other_tools(store: VersionStore, name: str, tmp_path: Path) -> None:
    flavors = {"python": {"python_function": {}}, "bare": {"dspy": {}}}
    for folder, reason in {"python": "not a DSPy program", "bare": "", "gone": "cannot be read"}.items():
        (tmp_path / folder).mkdir()
        if folder in flavors:
            Model(flavors=flavors[folder]).save(str(tmp_path / folder / "MLmodel"))
        store.tracking.client.create_registered_model(f"{name}-{folder}")
        store.tracking.client.create_model_version(f"{name}-{folder}", str(tmp_path / folder))
        version = store.get(f"{name}-{folder}/1")
        assert version.servable == (not reason) and reason in version.reason, (folder, version.reason)
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


def test_a_write_waits_for_another_program_that_locks_the_database(
    store: VersionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[int] = []

    def write() -> int:
        tries.append(1)
        if len(tries) != 3:
            raise sqlite3.OperationalError("database is locked")
        return len(tries)

    assert store.tracking.write(write) == 3
    monkeypatch.setattr(tracking, "LOCKED_RETRY_S", 0)
    with pytest.raises(TrackingUnavailable) as caught:
        store.tracking.write(write)
    assert caught.value.public_message == mlflow_bridge.LOCKED


def test_a_database_is_made_once(tmp_path: Path, in_an_empty_folder: Path) -> None:
    stores = [store_at(tmp_path / "deep" / "data") for _ in range(2)]
    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(lambda store: store.versions(), stores)) == [[], []]
    relative = VersionStore(Settings(data_dir=tmp_path, tracking_uri="sqlite:///mine.db"))
    assert relative.tracking.uri == f"sqlite:///{in_an_empty_folder}/mine.db", "that of the start"


def test_a_folder_file_or_server_that_cannot_be_used(
    tmp_path: Path, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    (tmp_path / "file").write_text("")
    refused(store_at(tmp_path / "file" / "data"))
    database.write_bytes(b"this is no database, but a text of some length. " * 100)
    no_answer = TrackingUnavailable.default_message
    assert refused(store_at(database.parent)) == no_answer
    assert refused(store_at(tmp_path, tracking_uri=f"http://127.0.0.1:{free_port()}")) == no_answer
