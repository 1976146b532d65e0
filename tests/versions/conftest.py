"""One database for the tests of versions: making it takes two seconds. Each test uses names of its own."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dspy_demo.events import LMChoice
from dspy_demo.lm.choices import DEMO_MODEL
from dspy_demo.programs.registry import ProgramRegistry
from dspy_demo.programs.shipped import SHIPPED
from dspy_demo.settings import Settings
from dspy_demo.versions import LogRequest, Version, VersionStore
from dspy_demo.versions.trial import Trials

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def store_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("versions")


@pytest.fixture(scope="session")
def store(store_dir: Path) -> VersionStore:
    store = VersionStore(Settings(data_dir=store_dir))
    store.prepare()
    return store


@pytest.fixture
def programs() -> ProgramRegistry:
    return ProgramRegistry(SHIPPED)


@pytest.fixture
def name() -> str:
    """A registered model's name that no other test uses."""
    return f"demo-{next(_numbers)}"


@pytest.fixture
def artifacts(store: VersionStore) -> Callable[[str], Path]:
    """The folder with the files of a version."""

    def find(uri: str) -> Path:
        version = store.get(uri)
        location = store.tracking.client.get_model_version_download_uri(version.name, str(version.version))
        return Path(location.removeprefix("file://"))

    return find


@pytest.fixture(scope="session")
def logged(store: VersionStore) -> dict[str, Version]:
    """A version of each of three programs: to log one takes seconds. One of them is optimised."""
    import dspy

    programs = ProgramRegistry(SHIPPED)
    module = programs.module("predict")
    module.demos = [dspy.Example(question="6 * 7?", answer="forty-two").with_inputs("question")]
    module.signature = module.signature.with_instructions("Answer in words.")
    choice, tags = LMChoice(DEMO_MODEL, temperature=0.5), {"team": "search"}
    return {
        program: store.log(LogRequest("logged", program, choice, "first try", tags), programs, adapter)
        for program, adapter in (("predict", "chat"), ("react", "json"), ("chain_of_thought", "chat"))
    }


@pytest.fixture
def ready_files(
    logged: dict[str, Version], artifacts: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Logs take the files of a version that is there, instead of making them in new processes."""
    files = artifacts(logged["predict"].uri)

    def run(self: Trials, draft: Any, folder: Path, secrets: Any) -> dict[str, str]:
        shutil.copytree(files, folder / "model")
        return {"program": draft.spec.name}

    monkeypatch.setattr(Trials, "run", run)


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path) -> Iterator[Path]:
    """MLflow writes ./mlruns and ./mlflow.db where it is not told otherwise: nothing may appear here."""
    before, folder = Path.cwd(), tmp_path / "cwd"
    folder.mkdir()
    os.chdir(folder)
    yield folder
    os.chdir(before)
    assert list(folder.iterdir()) == []
