"""Logging: what a version holds, and that it is a version or nothing."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from dspy_demo.errors import NotFound, TrackingUnavailable, VersionNotLogged
from dspy_demo.events import LMChoice, LocalTarget, TurnRequest
from dspy_demo.programs.loading import load_program
from dspy_demo.programs.registry import ProgramRegistry
from dspy_demo.programs.shipped import SHIPPED
from dspy_demo.settings import Settings
from dspy_demo.versions import LogRequest, VersionStore
from tests.fake_openai import FakeOpenAI
from tests.services import house, settings_for

BUILTIN = LMChoice("demo/engine")
Artifacts = Callable[[str], Path]


def test_it_is_registered_with_what_describes_it(
    store: VersionStore, programs: ProgramRegistry, name: str
) -> None:
    request = LogRequest(
        name, "react", LMChoice("demo/engine", temperature=0.5), "first try", {"team": "search"}
    )
    version = store.log(request, programs, "json")
    assert (version.uri, version.version) == (f"models:/{name}/1", 1)
    assert (version.program, version.lm, version.adapter) == ("react", "demo/engine", "json")
    assert (version.description, version.tags) == ("first try", {"team": "search"})
    assert version.servable and not version.reason and not version.aliases
    assert abs(version.created_at - time.time()) < 60
    assert store.get(version.uri) == version
    item = store.tracking.client.get_model_version(name, "1")
    assert item.tags["temperature"] == "0.5" and item.tags["app_version"] == version.app_version


def test_the_files_are_those_of_mlflows_dspy_flavor(
    store: VersionStore, programs: ProgramRegistry, name: str, artifacts: Artifacts
) -> None:
    folder = artifacts(store.log(LogRequest(name, "chain_of_thought", BUILTIN), programs).uri)
    mlmodel = yaml.safe_load((folder / "MLmodel").read_text())
    assert mlmodel["flavors"]["dspy"]["inference_task"] == "llm/v1/chat"
    assert "messages" in mlmodel["signature"]["inputs"] and "choices" in mlmodel["signature"]["outputs"]
    pinned = (folder / "requirements.txt").read_text().split()
    assert all("==" in line for line in pinned)
    assert {"dspy", "mlflow", "litellm"} <= {line.partition("==")[0] for line in pinned}
    code = [path.relative_to(folder / "code").as_posix() for path in (folder / "code").rglob("*")]
    assert "dspy_demo/programs/chat_program.py" in code
    assert not [path for path in code if "/ui" in path or "__pycache__" in path or "tests" in path]


def test_the_language_model_is_not_called(
    store: VersionStore, programs: ProgramRegistry, name: str, fake_openai: FakeOpenAI
) -> None:
    choice = LMChoice("openai/fake", fake_openai.url)
    store.load(store.log(LogRequest(name, "draft_and_review", choice), programs).uri)
    assert fake_openai.requests == []


@pytest.mark.integration
def test_many_at_once_on_one_database_are_as_many_versions(
    store: VersionStore, store_dir: Path, programs: ProgramRegistry, name: str
) -> None:
    stores = [VersionStore(Settings(data_dir=store_dir)), store]
    request = LogRequest(name, "chain_of_thought", BUILTIN)
    with ThreadPoolExecutor(4) as threads:
        made = list(threads.map(lambda one: one.log(request, programs), stores * 2))
    assert sorted(version.version for version in made) == [1, 2, 3, 4]


@pytest.mark.integration
async def test_it_works_while_turns_stream(
    store: VersionStore, store_dir: Path, programs: ProgramRegistry, name: str, fake_openai: FakeOpenAI
) -> None:
    fake_openai.reply(text="[[ ## reasoning ## ]]\n" + "word " * 2400 + "\n[[ ## answer ## ]]\n4\n", times=4)
    fake_openai.tokens_per_second = 80
    backend, choice = _backend(store_dir, programs), LMChoice("openai/fake", fake_openai.url, cache=False)

    async def turn() -> Any:
        target = LocalTarget("chain_of_thought", choice)
        request = TurnRequest(target, {"question": "What is 2 + 2?"})
        return [event async for event in backend.stream(request)][-1]

    turns = [asyncio.create_task(turn()) for _ in range(4)]
    await fake_openai.await_for(lambda: len(fake_openai.streams) == 4)
    request = LogRequest(name, "chain_of_thought", choice)
    assert (await asyncio.to_thread(store.log, request, programs)).version == 1
    assert not any(task.done() for task in turns)
    assert [(await task).outputs["answer"] for task in turns] == ["4"] * 4
    await backend.aclose()


def _backend(data_dir: Path, programs: ProgramRegistry) -> Any:
    from dspy_demo.backends.local import LocalBackend
    from dspy_demo.lm.catalog import LMCatalog
    from dspy_demo.lm.choices import Detection

    settings = Settings(data_dir=data_dir)
    return LocalBackend(settings, programs, LMCatalog(settings, Detection(BUILTIN, "", ())))


def test_an_optimised_program_keeps_its_demos(store: VersionStore, name: str) -> None:
    import dspy

    registry = ProgramRegistry(SHIPPED)
    module = registry.module("predict")
    module.demos = [dspy.Example(question="6 * 7?", answer="forty-two").with_inputs("question")]
    module.signature = module.signature.with_instructions("Answer in words.")
    version = store.log(LogRequest(name, "predict", BUILTIN), registry)
    loaded = store.load(version.uri).module
    assert loaded is not module
    assert loaded.demos[0]["answer"] == "forty-two"
    assert loaded.signature.instructions == "Answer in words."


OWN_PROGRAM = '''
import dspy
from words_of_mine import GREETING

class Greet(dspy.Signature):
    """Greet the person."""
    person: str = dspy.InputField()
    style: str = dspy.InputField(desc="how")
    greeting: str = dspy.OutputField()

class Greeter(dspy.Module):
    def __init__(self):
        super().__init__()
        self.greet = dspy.ChainOfThought(Greet)
    def forward(self, person: str, style: str = GREETING) -> dspy.Prediction:
        return self.greet(person=person, style=style)
    async def aforward(self, person: str, style: str = GREETING) -> dspy.Prediction:
        return await self.greet.acall(person=person, style=style)
'''


@pytest.fixture
def own_program(tmp_path: Path) -> Path:
    folder = tmp_path / "own"
    folder.mkdir()
    stem = f"own_{abs(hash(tmp_path)) % 10**8}"
    helper = f"words_{stem}"
    (folder / f"{helper}.py").write_text('GREETING = "warm"\n')
    (folder / ".env").write_text("OPENAI_API_KEY=sk-in-a-dot-env-file\n")
    (folder / "data.csv").write_text("a,b\n")
    path = folder / f"{stem}.py"
    path.write_text(OWN_PROGRAM.replace("words_of_mine", helper))
    return path


def test_a_program_of_ones_own_travels_with_its_code(
    store: VersionStore, name: str, own_program: Path, artifacts: Artifacts
) -> None:
    spec = load_program(str(own_program))
    version = store.log(LogRequest(name, spec.name, BUILTIN), ProgramRegistry([spec]))
    code = artifacts(version.uri) / "code"
    assert {path.name for path in code.iterdir()} == {
        "dspy_demo",
        own_program.name,
        f"words_{own_program.stem}.py",
    }
    loaded = store.load(version.uri)
    assert type(loaded.module).__name__ == "Greeter" and loaded.spec.chat_field == "person"


def test_the_git_commit_of_the_program_is_noted(store: VersionStore, name: str, own_program: Path) -> None:
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
        command = ["git", "-C", str(own_program.parent), *identity, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    git("init", "-q")
    git("add", own_program.name)
    git("commit", "-q", "-m", "first")
    spec = load_program(str(own_program))
    version = store.log(LogRequest(name, spec.name, BUILTIN), ProgramRegistry([spec]))
    assert version.git_commit == git("rev-parse", "HEAD")


FRESH = """
import sys
folder = sys.argv[1]
assert not [path for path in sys.path if path.rstrip("/") == "/work/main" or path == sys.argv[2]]
import mlflow.pyfunc
model = mlflow.pyfunc.load_model(folder)
messages = [{"role": "user", "content": "What is 2 + 2?"}]
print(model.predict({"messages": messages})["choices"][0]["message"]["content"])
program = model._model_impl.model
fields = {program.spec.chat_field: "What is 3 + 4?"}
import dspy
with dspy.context(**model._model_impl.dspy_settings):
    print(program(**fields).toDict())
import dspy_demo
print(dspy_demo.__file__)
"""


def _run_fresh(folder: Path, home: Path, own: Path) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FRESH, str(folder), str(own.parent)],
        cwd=home,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip().splitlines()[-3:]


@pytest.mark.integration
def test_it_answers_in_a_fresh_process_elsewhere(
    store: VersionStore,
    programs: ProgramRegistry,
    name: str,
    home: Path,
    own_program: Path,
    artifacts: Artifacts,
) -> None:
    folder = artifacts(store.log(LogRequest(name, "chain_of_thought", BUILTIN), programs).uri)
    content, named, package = _run_fresh(folder, home, own_program)
    assert json.loads(content)["answer"] == "2 + 2 = 4."
    assert "3 + 4 = 7." in named
    assert package.startswith(str(folder))

    spec = load_program(str(own_program))
    own = artifacts(store.log(LogRequest(name, spec.name, BUILTIN), ProgramRegistry([spec])).uri)
    content, _, package = _run_fresh(own, home, own_program)
    assert json.loads(content)["greeting"] and package.startswith(str(own))


def test_a_program_that_cannot_be_copied_is_refused(store: VersionStore, name: str) -> None:
    registry = ProgramRegistry(SHIPPED)
    registry.module("predict").gate = threading.Lock()
    with pytest.raises(VersionNotLogged, match="cannot be copied"):
        store.log(LogRequest(name, "predict", BUILTIN), registry)


def test_no_such_program(store: VersionStore, programs: ProgramRegistry, name: str) -> None:
    with pytest.raises(NotFound):
        store.log(LogRequest(name, "nothing", BUILTIN), programs)


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
        store.log(LogRequest(name, "predict", BUILTIN), programs)
    monkeypatch.undo()
    assert not client.search_registered_models(f"name='{name}'")
    assert not client.search_logged_models([store.tracking.experiment_id], f"name = '{name}'")
    assert {path.name for path in (store_dir / "artifacts").rglob("m-*")} == before


async def test_a_version_keeps_its_adapter_where_it_is_loaded(
    store: VersionStore, programs: ProgramRegistry, name: str, fake_openai: FakeOpenAI, data_dir: Path
) -> None:
    """Loaded into an app that writes prompts in another format, and logged from there once more."""
    choice = LMChoice("openai/fake", fake_openai.url, cache=False)
    first = await asyncio.to_thread(store.log, LogRequest(name, "predict", choice), programs, "json")
    loaded = await asyncio.to_thread(store.load, first.uri)
    own = ProgramRegistry([loaded.spec])
    async with house(settings_for(data_dir, adapter="chat"), choice, programs=own) as home:
        await home.ask("?", program=loaded.spec.name)
    assert "JSON object" in fake_openai.requests[-1].json["messages"][-1]["content"]
    again = await asyncio.to_thread(store.log, LogRequest(name, loaded.spec.name, choice), own, "chat")
    assert again.adapter == "json"
