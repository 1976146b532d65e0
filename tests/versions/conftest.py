"""One database for the tests of versions: making it takes two seconds. Each test uses names of its own."""

import json
import shutil
from pathlib import Path

import pytest

from dspy_demo.lm.choices import DEMO_MODEL
from dspy_demo.programs.own import load_program
from dspy_demo.programs.registry import ProgramRegistry
from dspy_demo.programs.shipped import SHIPPED
from dspy_demo.settings import Settings
from dspy_demo.versions import VersionStore
from dspy_demo.versions.store import Trials

#: What the log of a program without a model call left in MLflow, on 27 November 2026. It is never made anew.
FORMAT_1 = Path(__file__).parent / "format_1"
#: A program, with a line before it and one that it runs when it is made.
PROGRAM = """
import os, sys
from pathlib import Path
import dspy
{}
class Mine(dspy.Module):
    def __init__(self):
        super().__init__()
        self.ask = dspy.Predict("question -> answer")
        {}
    def forward(self, question: str):
        return self.ask(question=question)
"""


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    store = VersionStore(Settings(data_dir=tmp_path_factory.mktemp("versions")))
    store.tracking.prepare()
    return store


@pytest.fixture
def programs():
    return ProgramRegistry(SHIPPED)


@pytest.fixture
def name(tmp_path):
    """A registered model's name that no other test uses."""
    return tmp_path.name


@pytest.fixture
def register(store):
    """Makes a registered version of a folder, without a log; gives its URI."""

    def make(name, folder, into=store):
        client = into.tracking.client
        if not client.search_registered_models(f"name='{name}'"):
            client.create_registered_model(name)
        tags = {"program": "predict", "lm": DEMO_MODEL}
        return f"models:/{name}/{client.create_model_version(name, str(folder), tags=tags).version}"

    return make


@pytest.fixture
def program(tmp_path):
    """Makes a program of one's own that begins with a line, or keeps something."""

    def make(line):
        before, held = ("", line) if line.startswith("self.") else (line, "pass")
        path = tmp_path / f"mine_{abs(hash((tmp_path, line)))}.py"
        path.write_text(PROGRAM.format(before, held))
        return ProgramRegistry([load_program(str(path))])

    return make


@pytest.fixture
def ready_files(monkeypatch):
    """Logs take the files of a version that is there, instead of making them in new processes."""

    def load_it_anew(trials, folder, environment):
        shutil.copytree(FORMAT_1, folder / "model")
        (folder / "result.json").write_text(json.dumps({"files": [], "refused": ""}))

    monkeypatch.setattr(Trials, "load_it_anew", load_it_anew)


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    """MLflow writes ./mlruns and ./mlflow.db where it is not told otherwise: nothing may appear here."""
    folder = tmp_path / "cwd"
    folder.mkdir()
    monkeypatch.chdir(folder)
    yield folder
    assert list(folder.iterdir()) == []
