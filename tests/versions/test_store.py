"""Logging, listing, finding, promoting, rolling back and editing versions; those of other tools too."""

from __future__ import annotations

import asyncio
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from mlflow.models import Model

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
from dspy_demo.programs.own import load_program
from dspy_demo.programs.registry import ProgramRegistry
from dspy_demo.programs.shipped import SHIPPED
from dspy_demo.settings import Settings
from dspy_demo.versions import LogRequest, Version, VersionStore
from tests.fake_openai import FakeOpenAI, free_port
from tests.services import house, settings_for

pytestmark = pytest.mark.integration

DEMO = LMChoice(DEMO_MODEL)
Artifacts = Callable[[str], Path]


@pytest.fixture
def three(store: VersionStore, logged: dict[str, Version], name: str) -> list[Version]:
    """Versions 1 to 3 of `name`: those of `logged`, registered once more."""
    client = store.tracking.client
    client.create_registered_model(name)
    for version in logged.values():
        item = client.get_model_version(version.name, str(version.version))
        client.create_model_version(name, item.source, tags=item.tags)
    return store.versions(name)[::-1]


# --- log ---


def test_it_is_registered_with_what_describes_it(
    store: VersionStore, logged: dict[str, Version], artifacts: Artifacts
) -> None:
    version = logged["react"]
    assert (version.uri, version.version) == ("models:/logged/2", 2)
    assert (version.program, version.lm, version.adapter) == ("react", DEMO_MODEL, "json")
    assert (version.description, version.tags) == ("first try", {"team": "search"})
    assert version.servable and version.same_code and not version.reason and not version.aliases
    assert abs(version.created_at - time.time()) < 600
    assert store.get(version.uri) == version
    item = store.tracking.client.get_model_version("logged", "2")
    assert item.tags["temperature"] == "0.5" and item.tags["app_version"] == version.app_version
    folder = artifacts(version.uri)
    model = Model.load(str(folder))
    assert "dspy" in model.flavors and "messages" in model.get_input_schema().input_names()
    pinned = (folder / "requirements.txt").read_text().split()
    assert {"dspy", "mlflow", "litellm"} <= {line.partition("==")[0] for line in pinned}
    code = [path.relative_to(folder / "code") for path in (folder / "code").rglob("*.py")]
    (package,) = {path.parts[0] for path in code}
    assert package != "dspy_demo" and Path(package, "programs", "chat_program.py") in code
    assert not [path for path in code if {"ui", "api", "tests"} & set(path.parts)]
    assert not [path for path in (folder / "code").rglob("*.py") if "dspy_demo." in path.read_text()]


def test_an_optimised_program_keeps_its_demos(store: VersionStore, logged: dict[str, Version]) -> None:
    loaded = store.load(logged["predict"].uri).module
    assert loaded.demos[0]["answer"] == "forty-two"
    assert loaded.signature.instructions == "Answer in words."


@pytest.mark.usefixtures("ready_files")
def test_many_at_once_on_one_database_are_as_many_versions(
    store: VersionStore, store_dir: Path, programs: ProgramRegistry, name: str
) -> None:
    stores = [VersionStore(Settings(data_dir=store_dir)), store]
    request = LogRequest(name, "chain_of_thought", DEMO)
    with ThreadPoolExecutor(4) as threads:
        made = list(threads.map(lambda one: one.log(request, programs), stores * 2))
    assert sorted(version.version for version in made) == [1, 2, 3, 4]


@pytest.mark.usefixtures("ready_files")
@pytest.mark.parametrize("broken", ["log_model_artifacts", "create_model_version", "finalize_logged_model"])
def test_what_fails_midway_leaves_nothing(
    store: VersionStore,
    programs: ProgramRegistry,
    name: str,
    broken: str,
    monkeypatch: pytest.MonkeyPatch,
    store_dir: Path,
) -> None:
    client = store.tracking.client
    before = {path.name for path in (store_dir / "artifacts").rglob("m-*")}

    def fail(*_: object, **__: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(client, broken, fail)
    with pytest.raises(TrackingUnavailable):
        store.log(LogRequest(name, "predict", DEMO), programs)
    monkeypatch.undo()
    assert not client.search_registered_models(f"name='{name}'")
    assert not client.search_logged_models([store.tracking.experiment_id], f"name = '{name}'")
    assert {path.name for path in (store_dir / "artifacts").rglob("m-*")} == before


OWN_PROGRAM = """
import dspy
from HELPER import GREETING

class Greeter(dspy.Module):
    def __init__(self):
        super().__init__()
        self.greet = dspy.ChainOfThought("person, style -> greeting")
    def forward(self, person: str, style: str = GREETING) -> dspy.Prediction:
        return self.greet(person=person, style=style)
"""


def test_a_program_of_ones_own_travels_with_its_code_and_its_commit(
    store: VersionStore, name: str, tmp_path: Path, artifacts: Artifacts
) -> None:
    folder, stem = tmp_path / "own", f"own_{name.replace('-', '_')}"
    folder.mkdir()
    (folder / f"words_{stem}.py").write_text('GREETING = "warm"\n')
    (folder / ".env").write_text("OPENAI_API_KEY=sk-in-a-dot-env-file\n")
    (folder / f"{stem}.py").write_text(OWN_PROGRAM.replace("HELPER", f"words_{stem}"))

    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
        command = ["git", "-C", str(folder), *identity, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    git("init", "-q")
    git("add", f"{stem}.py")
    git("commit", "-q", "-m", "first")
    spec = load_program(str(folder / f"{stem}.py"))
    version = store.log(LogRequest(name, spec.name, DEMO), ProgramRegistry([spec]))
    assert version.git_commit == git("rev-parse", "HEAD")
    code = {path.name for path in (artifacts(version.uri) / "code").iterdir()}
    assert {one for one in code if not one.startswith("dspy_demo_")} == {f"{stem}.py", f"words_{stem}.py"}
    loaded = store.load(version.uri)
    assert type(loaded.module).__name__ == "Greeter" and loaded.spec.chat_field == "person"


def test_what_cannot_be_logged_is_refused(store: VersionStore, programs: ProgramRegistry, name: str) -> None:
    programs.module("predict").gate = threading.Lock()
    with pytest.raises(VersionNotLogged, match="cannot be copied"):
        store.log(LogRequest(name, "predict", DEMO), programs)
    with pytest.raises(NotFound):
        store.log(LogRequest(name, "nothing", DEMO), programs)
    bad_names = ["", " ", "a/b", "a:b", "../x", "a@b", ".hidden", "x" * 121, "quote'd", "a\nb"]
    for bad in bad_names:
        with pytest.raises(InvalidInput):
            store.log(LogRequest(bad, "react", DEMO), programs)


@pytest.mark.usefixtures("ready_files")
def test_names_may_be_words_of_any_language(store: VersionStore, programs: ProgramRegistry) -> None:
    request = LogRequest("Frage 1.0 - größer", "predict", DEMO, "“ünïcode” 🙂", {"größe": "5 €"})
    version = store.log(request, programs)
    assert store.versions(request.name) == [version] == [store.get(version.uri)]


# --- load back ---


def test_loading_leaves_the_process_as_it_was(store: VersionStore, three: list[Version]) -> None:
    import dspy

    before = dict(dspy.settings.config)
    with ThreadPoolExecutor(4) as threads:
        loaded = list(threads.map(store.load, [version.uri for version in three] * 4))
    assert dict(dspy.settings.config) == before
    assert [one.spec.name for one in loaded[:3]] == ["predict", "react", "chain_of_thought"]
    assert loaded[0].spec.build() is loaded[0].module
    assert [one.spec.adapter for one in loaded[:3]] == ["chat", "json", "chat"]
    assert loaded[0].lm == LMChoice(DEMO_MODEL, temperature=0.5)
    shipped = {spec.name: spec for spec in SHIPPED}
    for one in loaded[:3]:
        told = shipped[one.spec.name]
        assert (one.spec.inputs, one.spec.outputs) == (told.inputs, told.outputs)


async def test_a_version_keeps_its_adapter_where_it_is_loaded(
    store: VersionStore, logged: dict[str, Version], fake_openai: FakeOpenAI, data_dir: Path
) -> None:
    """It is loaded into an app that writes prompts in another format."""
    loaded = await asyncio.to_thread(store.load, logged["react"].uri)
    choice = LMChoice("openai/fake", fake_openai.url, cache=False)
    own = ProgramRegistry([loaded.spec])
    async with house(settings_for(data_dir, adapter="chat"), choice, programs=own) as home:
        await home.ask("?", program=loaded.spec.name)
    assert "JSON object" in fake_openai.requests[-1].json["messages"][-1]["content"]


# --- look and change ---


def test_listed_and_found(store: VersionStore, name: str, three: list[Version]) -> None:
    assert store.versions(name) == three[::-1]
    everything = store.versions()
    assert [version for version in everything if version.name == name] == three[::-1]
    assert everything == sorted(everything, key=lambda version: version.created_at, reverse=True)
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
    store.tracking.client.delete_model_version(name, "1")
    assert store.previous_champion(name) is None
    with pytest.raises(VersionNotFound):
        store.roll_back(name)


def test_many_promote_at_once(store: VersionStore, name: str, three: list[Version]) -> None:
    with ThreadPoolExecutor(6) as threads:
        list(threads.map(store.promote, [version.uri for version in three] * 2))
    champion, previous = store.get(f"{name}@champion").version, store.previous_champion(name)
    assert previous is not None and previous != champion


def test_describe_and_tag(store: VersionStore, three: list[Version]) -> None:
    assert store.describe(three[0].uri, "  better \n").description == "better"
    assert store.describe(three[0].uri, "").description == ""
    tagged = store.tag(three[0].uri, {"quality": "good", "team/sub": "x=y"})
    assert tagged.tags == {"quality": "good", "team/sub": "x=y"}
    assert (tagged.program, tagged.lm) == ("predict", DEMO_MODEL)
    assert store.tag(three[0].uri, {}).tags == {}
    for key, value in (("", "x"), ("program", "x"), ("mlflow.user", "x"), ("a//b", "x"), ("k" * 251, "x")):
        with pytest.raises(InvalidInput):
            store.tag(three[0].uri, {key: value})
    for change in (
        lambda: store.tag(three[0].uri, {"k": "v" * 2001}),
        lambda: store.describe(three[0].uri, "x" * 5001),
    ):
        with pytest.raises(InvalidInput):
            change()


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


# --- the store itself ---


def test_the_store_can_be_opened_where_nothing_is_yet(tmp_path: Path) -> None:
    steps: list[str] = []
    store = VersionStore(Settings(data_dir=tmp_path / "deep" / "data"))
    assert not store.ready
    store.prepare(steps.append)
    assert store.ready and steps == ["Loading MLflow", "Making the MLflow database", "MLflow is ready"]
    assert store.versions() == []
    assert (tmp_path / "deep" / "data" / "mlflow.db").is_file()


def test_a_store_that_cannot_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    (tmp_path / "file").write_text("")
    for settings in (
        Settings(data_dir=tmp_path / "file" / "data"),
        Settings(data_dir=tmp_path, tracking_uri=f"http://127.0.0.1:{free_port()}"),
    ):
        with pytest.raises(TrackingUnavailable):
            VersionStore(settings).versions()


def test_a_relative_database_belongs_to_the_folder_of_the_start(
    tmp_path: Path, in_an_empty_folder: Path
) -> None:
    store = VersionStore(Settings(data_dir=tmp_path, tracking_uri="sqlite:///mine.db"))
    assert store.tracking_uri == f"sqlite:///{in_an_empty_folder}/mine.db"
