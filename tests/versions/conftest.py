"""One database for the tests of versions: making it takes two seconds. Each test uses names of its own."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dspy_demo.programs.registry import ProgramRegistry
from dspy_demo.programs.shipped import SHIPPED
from dspy_demo.settings import Settings
from dspy_demo.versions import VersionStore

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


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path) -> Iterator[Path]:
    """MLflow writes ./mlruns and ./mlflow.db where it is not told otherwise: nothing may appear here."""
    before, folder = Path.cwd(), tmp_path / "cwd"
    folder.mkdir()
    os.chdir(folder)
    yield folder
    os.chdir(before)
    assert list(folder.iterdir()) == []
