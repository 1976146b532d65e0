"""Listing, finding, promoting, rolling back and editing versions; refused logs; stores in trouble."""

import contextlib
import shutil
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import Mock

import pytest
from mlflow.exceptions import MlflowException
from mlflow.models import Model

from dspy_demo import errors, mlflow_bridge
from dspy_demo.events import LMChoice
from dspy_demo.lm.choices import DEMO_MODEL
from dspy_demo.mlflow_bridge import tracking_errors
from dspy_demo.settings import Settings
from dspy_demo.versions import LogRequest, VersionStore, tracking
from dspy_demo.versions.tracking import DATABASE_NAME
from tests.fake_openai import free_port
from tests.versions.conftest import FORMAT_1

pytestmark = pytest.mark.integration

DEMO = LMChoice(DEMO_MODEL)


@pytest.fixture
def three(store, name, register):
    """Versions 1 to 3 of `name`."""
    return [store.get(register(name, FORMAT_1)) for _ in range(3)]


@pytest.mark.usefixtures("ready_files")
def test_many_at_once_on_one_database_are_as_many_versions(store, programs):
    stores = [VersionStore(Settings(data_dir=store.tracking.data_dir)), store]
    request = LogRequest("Frage 1.0 - größer", "predict", DEMO, "“ünïcode” 🙂", {"größe": "5 €"})
    with ThreadPoolExecutor(4) as threads:
        made = {one.version: one for one in threads.map(lambda one: one.log(request, programs), stores * 2)}
    assert sorted(made) == [1, 2, 3, 4]
    assert made == {one.version: one for one in store.versions() if one.name == request.name}
    assert (made[1].description, made[1].tags) == (request.description, request.tags)


@pytest.mark.usefixtures("ready_files")
def test_what_fails_midway_leaves_nothing(store, programs, name, monkeypatch):
    client, artifacts = store.tracking.client, store.tracking.artifact_root
    before = {path.name for path in artifacts.rglob("m-*")}

    for broken in ("log_model_artifacts", "create_model_version"):
        with monkeypatch.context() as patched:
            patched.setattr(client, broken, Mock(side_effect=OSError("No space left on device")))
            with pytest.raises(errors.TrackingUnavailable):
                store.log(LogRequest(name, "predict", DEMO), programs)
        assert not [version for version in store.versions() if version.name == name]
        assert not client.search_logged_models([store.tracking.experiment_id], f"name = '{name}'")
        assert {path.name for path in artifacts.rglob("m-*")} == before


def test_what_cannot_be_logged_is_refused(store, programs, name):
    programs.module("predict").gate = threading.Lock()
    with pytest.raises(errors.VersionNotLogged, match="cannot be copied"):
        store.log(LogRequest(name, "predict", DEMO), programs)
    with pytest.raises(errors.NotFound):
        store.log(LogRequest(name, "nothing", DEMO), programs)
    for bad in (" ", "a/b", "../x", "a@b", ".hidden", "x" * 121, "quote'd", "a\nb"):
        with pytest.raises(errors.InvalidInput):
            store.log(LogRequest(bad, "react", DEMO), programs)


def test_listed_and_found(store, name, three):
    everything = store.versions()
    assert [version for version in everything if version.name == name] == three[::-1]
    assert everything == sorted(everything, key=lambda version: version.created_at, reverse=True)
    assert store.get(f" models:/{name}/2 ") == store.get(f"{name}/2") == three[1]
    for reference in (f"{name}/9", f"{name}@nobody", "no-such-model/1"):
        with pytest.raises(errors.VersionNotFound):
            store.get(reference)
    for reference in ("", "models:/demo", "demo/latest", "m/demo@x", "/1"):
        with pytest.raises(errors.InvalidInput):
            store.get(reference)


def test_the_champion_before_is_known_after_a_restart_and_many_promotions_at_once(store, name, three):
    with pytest.raises(errors.VersionNotFound, match="no champion before"):
        store.roll_back(name)
    for number in (0, 2, 2):  # again: nothing is forgotten
        assert store.promote(three[number].uri).aliases == ("champion",)
    restarted = VersionStore(Settings(data_dir=store.tracking.data_dir))
    assert restarted.roll_back(name).version == 1
    assert store.roll_back(name).version == 3 == store.get(f"models:/{name}@champion").version
    with ThreadPoolExecutor(6) as threads:
        list(threads.map(store.promote, [version.uri for version in three] * 2))
    champion, previous = store.get(f"{name}@champion").version, store.previous_champion(name)
    assert previous not in (None, champion)
    store.tracking.client.delete_model_version(name, str(previous))
    with pytest.raises(errors.VersionNotFound):
        store.roll_back(name)


def test_words_and_tags_are_replaced_but_those_of_this_app_and_of_mlflow(store, three):
    uri = three[0].uri
    assert store.edit(uri, "  better \n", {"team/sub": "x=y"}).tags == {"team/sub": "x=y"}
    edited = store.edit(uri, "", {})
    assert (edited.program, edited.description, edited.tags) == ("predict", "", {})
    for key, value in {"program": "x", "mlflow.user": "x", "a//b": "x", "k": "v" * 2001}.items():
        with pytest.raises(errors.InvalidInput):
            store.edit(uri, "", {key: value})


def test_versions_of_other_tools(store, name, tmp_path, register):
    flavors = {"python": {"python_function": {}}, "bare": {"dspy": {}}}
    for kind, reason in {"python": "not a DSPy program", "bare": "", "gone": "cannot be read"}.items():
        (tmp_path / kind).mkdir()
        if kind in flavors:
            Model(flavors=flavors[kind]).save(str(tmp_path / kind / "MLmodel"))
        version = store.get(register(f"{name}-{kind}", tmp_path / kind))
        assert version.servable == (not reason) and reason in version.reason, (kind, version.reason)
        with pytest.raises(errors.VersionNotServable):
            store.load(version.uri)
        if reason:
            with pytest.raises(errors.VersionNotServable, match="cannot be the champion"):
                store.promote(version.uri)


# A store that cannot be used: one sentence that helps, nothing half done, no version lost.


def test_what_the_user_can_mend_is_said(store):
    for error, kind, sentence in (
        (sqlite3.OperationalError("database is locked"), errors.TrackingUnavailable, mlflow_bridge.LOCKED),
        (MlflowException("API request: error code 401"), errors.TrackingUnavailable, mlflow_bridge.LOGIN),
        (ConnectionResetError(), errors.TrackingUnavailable, errors.TrackingUnavailable.default_message),
        (ValueError("SECRET"), errors.TrackingError, errors.TrackingError.default_message),
    ):
        with pytest.raises(kind) as caught, tracking_errors():
            raise error
        assert caught.value.public_message == sentence
    with pytest.raises(errors.VersionNotFound), tracking_errors():
        store.tracking.client.get_registered_model("nothing")
    with pytest.raises(errors.InvalidInput), tracking_errors():
        store.tracking.client.create_registered_model("")


def test_a_write_waits_for_another_program_that_locks_the_database(store, monkeypatch):
    locked = sqlite3.OperationalError("database is locked")
    write = Mock(side_effect=[locked, locked, "written", locked])
    assert store.tracking.write(write) == "written"
    monkeypatch.setattr(tracking, "LOCKED_RETRY_S", 0)
    with pytest.raises(errors.TrackingUnavailable, match="Another program keeps"):
        store.tracking.write(write)


def test_a_database_is_made_once(tmp_path, in_an_empty_folder):
    stores = [VersionStore(Settings(data_dir=tmp_path / "deep" / "data")) for _ in range(2)]
    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(lambda store: store.versions(), stores)) == [[], []]
    relative = VersionStore(Settings(data_dir=tmp_path, tracking_uri="sqlite:///mine.db"))
    assert relative.tracking.uri == f"sqlite:///{in_an_empty_folder}/mine.db", "that of the start"


def test_a_folder_file_or_server_that_cannot_be_used(store, tmp_path, data_dir, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")

    def refused(folder, uri=None):
        with pytest.raises(errors.TrackingUnavailable) as caught:
            VersionStore(Settings(data_dir=folder, tracking_uri=uri)).versions()
        return caught.value.public_message

    (tmp_path / "file").write_text("")
    refused(tmp_path / "file" / "data")
    database = Path(shutil.copy(store.tracking.data_dir / DATABASE_NAME, data_dir))
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
    assert refused(data_dir) == mlflow_bridge.OUTDATED
    database.write_bytes(b"this is no database, but a text of some length. " * 100)
    server = f"http://127.0.0.1:{free_port()}"
    assert refused(data_dir) == refused(tmp_path, server) == errors.TrackingUnavailable.default_message
