"""Listing, finding, promoting, rolling back and editing versions; those of other tools too."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dspy_demo.errors import InvalidInput, TrackingUnavailable, VersionNotFound, VersionNotServable
from dspy_demo.events import LMChoice
from dspy_demo.programs.registry import ProgramRegistry
from dspy_demo.programs.shipped import SHIPPED
from dspy_demo.settings import Settings
from dspy_demo.versions import LogRequest, Version, VersionStore
from tests.fake_openai import free_port

BUILTIN = LMChoice("demo/engine")


@pytest.fixture(scope="session")
def logged(store: VersionStore) -> dict[str, Version]:
    """A version of each of three programs: to log one takes seconds."""
    programs = ProgramRegistry(SHIPPED)
    return {
        program: store.log(LogRequest("logged", program, BUILTIN), programs)
        for program in ("predict", "react", "chain_of_thought")
    }


@pytest.fixture
def three(store: VersionStore, logged: dict[str, Version], name: str) -> list[Version]:
    """Versions 1 to 3 of `name`: those of `logged`, registered once more."""
    client = store.tracking.client
    client.create_registered_model(name)
    for version in logged.values():
        item = client.get_model_version(version.name, str(version.version))
        client.create_model_version(name, item.source, tags={**item.tags, "team": "search"})
    return store.versions(name)[::-1]


def test_newest_first(store: VersionStore, name: str, three: list[Version]) -> None:
    listed = store.versions(name)
    assert listed == three[::-1]
    everything = store.versions()
    assert [version for version in everything if version.name == name] == listed
    assert everything == sorted(everything, key=lambda version: version.created_at, reverse=True)


@pytest.mark.parametrize("form", ["models:/{}/2", "{}/2", " models:/{}/2 "])
def test_found_by_uri(store: VersionStore, name: str, three: list[Version], form: str) -> None:
    assert store.get(form.format(name)) == three[1]


def test_found_by_alias(store: VersionStore, name: str, three: list[Version]) -> None:
    store.promote(three[1].uri)
    assert store.get(f"models:/{name}@champion").version == 2


@pytest.mark.parametrize("reference", ["{}/9", "{}@nobody", "no-such-model/1", "no-such-model@champion"])
def test_none_found(store: VersionStore, name: str, three: list[Version], reference: str) -> None:
    with pytest.raises(VersionNotFound):
        store.get(reference.format(name))


@pytest.mark.parametrize(
    "reference", ["", "models:/", "demo", "models:/demo", "demo/latest", "m/demo@x", "/1"]
)
def test_no_reference(store: VersionStore, reference: str) -> None:
    with pytest.raises(InvalidInput):
        store.get(reference)


def test_no_such_name(store: VersionStore) -> None:
    with pytest.raises(VersionNotFound):
        store.versions("no-such-model")
    with pytest.raises(VersionNotFound):
        store.roll_back("no-such-model")


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
    assert store.roll_back(name).version == 3
    store.tracking.client.delete_model_version(name, "1")
    assert store.previous_champion(name) is None
    with pytest.raises(VersionNotFound):
        store.roll_back(name)


def test_many_promote_at_once(store: VersionStore, name: str, three: list[Version]) -> None:
    with ThreadPoolExecutor(6) as threads:
        list(threads.map(store.promote, [version.uri for version in three] * 2))
    champion, previous = store.get(f"{name}@champion").version, store.previous_champion(name)
    assert previous is not None and previous != champion


def test_describe_and_tag(store: VersionStore, name: str, three: list[Version]) -> None:
    assert store.describe(three[0].uri, "  better \n").description == "better"
    assert store.describe(three[0].uri, "").description == ""
    tagged = store.tag(three[0].uri, {"quality": "good", "team/sub": "x=y"})
    assert tagged.tags == {"quality": "good", "team/sub": "x=y"}
    assert (tagged.program, tagged.lm) == ("predict", "demo/engine")
    assert store.tag(three[0].uri, {}).tags == {}
    for bad in (
        {"": "x"},
        {"program": "x"},
        {"mlflow.user": "x"},
        {"a//b": "x"},
        {"k" * 251: "x"},
        {"k": "v" * 2001},
    ):
        with pytest.raises(InvalidInput):
            store.tag(three[0].uri, bad)
    with pytest.raises(InvalidInput):
        store.describe(three[0].uri, "x" * 5001)


@pytest.mark.parametrize(
    "bad", ["", " ", "a/b", "a:b", "../x", "a@b", ".hidden", "x" * 121, "quote'd", "a\nb"]
)
def test_names_that_mlflow_could_not_keep(store: VersionStore, programs: ProgramRegistry, bad: str) -> None:
    with pytest.raises(InvalidInput):
        store.log(LogRequest(bad, "predict", BUILTIN), programs)


def test_names_may_be_words_of_any_language(store: VersionStore, programs: ProgramRegistry) -> None:
    name = "Frage 1.0 – größer".replace("–", "-")
    version = store.log(LogRequest(name, "predict", BUILTIN, "“ünïcode” 🙂", {"größe": "5 €"}), programs)
    assert store.versions(name) == [version] == [store.get(version.uri)]


def test_links(store: VersionStore, three: list[Version]) -> None:
    link = store.link(three[0], "http://127.0.0.1:5000/")
    assert link == f"http://127.0.0.1:5000/#/models/{three[0].name}/versions/1"
    assert store.link(three[0]) == "", "a database has no pages"


def register_elsewhere(store: VersionStore, folder: Path, name: str) -> None:
    client = store.tracking.client
    client.create_registered_model(name)
    client.create_model_version(name, str(folder))


@pytest.mark.filterwarnings("ignore")  # MLflow's own, about type hints and signatures
def test_versions_of_other_tools(store: VersionStore, name: str, tmp_path: Path) -> None:
    import dspy
    import mlflow.dspy
    import mlflow.pyfunc
    from mlflow.models.rag_signatures import SIGNATURE_FOR_LLM_INFERENCE_TASK

    class Echo(mlflow.pyfunc.PythonModel):
        def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
            return model_input

    chat = SIGNATURE_FOR_LLM_INFERENCE_TASK["llm/v1/chat"]
    mlflow.pyfunc.save_model(str(tmp_path / "python"), python_model=Echo(), pip_requirements=["mlflow"])
    bare, signature = (
        dspy.ChainOfThought("question -> answer"),
        mlflow.models.ModelSignature(chat.inputs, chat.outputs),
    )
    mlflow.dspy.save_model(bare, str(tmp_path / "fields"), signature=signature, pip_requirements=["dspy"])
    mlflow.dspy.save_model(bare, str(tmp_path / "bare"), task="llm/v1/chat", pip_requirements=["dspy"])
    (tmp_path / "gone").mkdir()
    reasons = {
        "python": "Not a DSPy program",
        "fields": "takes no chat messages",
        "bare": "bare dspy.ChainOfThought",
        "gone": "cannot be read",
    }
    for folder, reason in reasons.items():
        register_elsewhere(store, tmp_path / folder, f"{name}-{folder}")
        version = store.versions(f"{name}-{folder}")[0]
        assert not version.servable and reason in version.reason, (folder, version.reason)
        assert (version.program, version.lm, version.same_code) == ("", "", False)
        with pytest.raises(VersionNotServable, match="cannot be the champion"):
            store.promote(version.uri)
        with pytest.raises(VersionNotServable, match="cannot be used here"):
            store.load(version.uri)


def test_loading_leaves_the_process_as_it_was(store: VersionStore, name: str, three: list[Version]) -> None:
    import dspy

    before = dict(dspy.settings.config)
    with ThreadPoolExecutor(4) as threads:
        loaded = list(threads.map(store.load, [version.uri for version in three] * 4))
    assert dict(dspy.settings.config) == before
    assert [one.spec.name for one in loaded[:3]] == ["predict", "react", "chain_of_thought"]
    assert loaded[0].spec.build() is loaded[0].module
    assert {one.spec.adapter for one in loaded} == {"chat"} and loaded[0].lm == BUILTIN


async def test_a_loaded_version_answers_in_the_local_backend(
    store: VersionStore, name: str, three: list[Version]
) -> None:
    from dspy_demo.backends.local import LocalBackend
    from dspy_demo.events import LocalTarget, TurnFinished, TurnRequest
    from dspy_demo.lm.catalog import LMCatalog
    from dspy_demo.lm.choices import Detection

    loaded = store.load(three[2].uri)
    settings = Settings()
    backend = LocalBackend(
        settings, ProgramRegistry([loaded.spec]), LMCatalog(settings, Detection(BUILTIN, "", ()))
    )
    request = TurnRequest(LocalTarget(loaded.spec.name, loaded.lm), {"question": "What is 2 + 2?"})
    events = [event async for event in backend.stream(request)]
    assert isinstance(events[-1], TurnFinished) and "4" in events[-1].outputs["answer"]
    assert len(events) > 5, "it streams"


def test_the_store_can_be_opened_where_nothing_is_yet(tmp_path: Path) -> None:
    said: list[str] = []
    store = VersionStore(Settings(data_dir=tmp_path / "deep" / "data"))
    assert not store.ready
    store.prepare(said.append)
    assert store.ready and said == ["Loading MLflow", "Making the MLflow database", "MLflow is ready"]
    assert store.versions() == []
    assert (tmp_path / "deep" / "data" / "mlflow.db").is_file()


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TrackingUnavailable):
        VersionStore(Settings(data_dir=tmp_path / "file" / "data")).prepare()


def test_a_server_that_is_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    store = VersionStore(Settings(data_dir=tmp_path, tracking_uri=f"http://127.0.0.1:{free_port()}"))
    with pytest.raises(TrackingUnavailable):
        store.versions()


def test_a_relative_database_belongs_to_the_folder_of_the_start(
    tmp_path: Path, in_an_empty_folder: Path
) -> None:
    store = VersionStore(Settings(data_dir=tmp_path, tracking_uri="sqlite:///mine.db"))
    assert store.tracking_uri == f"sqlite:///{in_an_empty_folder}/mine.db"
