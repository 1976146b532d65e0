"""One database for the tests of versions: making it takes two seconds. Each test uses names of its own."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from dspy_demo.lm.choices import DEMO_MODEL
from dspy_demo.programs.registry import ProgramRegistry
from dspy_demo.programs.shipped import SHIPPED
from dspy_demo.settings import Settings
from dspy_demo.versions import Version, VersionStore
from dspy_demo.versions.store import Trials

#: What the log of a program without a model call left in MLflow, on 27 November 2026. It is never made anew.
FORMAT_1 = Path(__file__).parent / "format_1"
_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def store_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("versions")


@pytest.fixture(scope="session")
def store(store_dir: Path) -> VersionStore:
    store = VersionStore(Settings(data_dir=store_dir))
    store.tracking.prepare()
    return store


@pytest.fixture
def programs() -> ProgramRegistry:
    return ProgramRegistry(SHIPPED)


@pytest.fixture
def name() -> str:
    """A registered model's name that no other test uses."""
    return f"demo-{next(_numbers)}"


@pytest.fixture
def three(store: VersionStore, name: str) -> list[Version]:
    """Versions 1 to 3 of `name`, registered without a log."""
    store.tracking.client.create_registered_model(name)
    for _ in range(3):
        tags = {"program": "predict", "lm": DEMO_MODEL}
        store.tracking.client.create_model_version(name, str(FORMAT_1), tags=tags)
    return [store.get(f"{name}/{number}") for number in (1, 2, 3)]


@pytest.fixture
def artifacts(store: VersionStore) -> Callable[[str], Path]:
    """The folder with the files of a version."""

    def find(uri: str) -> Path:
        version = store.get(uri)
        location = store.tracking.client.get_model_version_download_uri(version.name, str(version.version))
        return Path(location.removeprefix("file://"))

    return find


@pytest.fixture
def ready_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logs take the files of a version that is there, instead of making them in new processes."""

    def load_it_anew(self: Trials, folder: Path, environment: Mapping[str, str]) -> None:
        shutil.copytree(FORMAT_1, folder / "model")
        (folder / "result.json").write_text(json.dumps({"files": [], "refused": ""}))

    monkeypatch.setattr(Trials, "load_it_anew", load_it_anew)


@pytest.fixture
def imports_undone() -> Iterator[None]:
    """A program's own modules are imported by their short names, which another program may have too."""
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if "pytest-" in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path) -> Iterator[Path]:
    """MLflow writes ./mlruns and ./mlflow.db where it is not told otherwise: nothing may appear here."""
    before, folder = Path.cwd(), tmp_path / "cwd"
    folder.mkdir()
    os.chdir(folder)
    yield folder
    os.chdir(before)
    assert list(folder.iterdir()) == []
