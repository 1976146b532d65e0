"""A version is what a new process can load: what it needs travels along, or the log says what is missing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dspy
import httpx
import pytest
from mlflow.models import Model

from dspy_demo.errors import VersionNotLogged, VersionNotServable
from dspy_demo.events import LMChoice
from dspy_demo.programs.own import load_program
from dspy_demo.programs.registry import ProgramRegistry
from dspy_demo.programs.shipped import SHIPPED
from dspy_demo.settings import Settings
from dspy_demo.versions import LogRequest, VersionStore, command, new_process
from tests.backends.served_fixtures import start_model_server
from tests.fake_openai import FakeOpenAI
from tests.processes import REPO, live_children, wait_until

pytestmark = pytest.mark.integration

BUILTIN = LMChoice("demo/engine")
CASES = Path(__file__).parent.parent / "cases"


def run(cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(REPO)}
    command = [sys.executable, *arguments]
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture
def imports_undone() -> Iterator[None]:
    """A program's own modules are imported by their short names, which another program may have too."""
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if "pytest-" in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.mark.usefixtures("imports_undone")
async def test_what_it_reads_travels_along(tmp_path: Path, home: Path, fake_openai: FakeOpenAI) -> None:
    """By ``python app.py log``: data and optimised state beside the source. Other code never answers for it.

    Then the source is moved away, and the version served.
    """
    folder, data_dir, empty = tmp_path / "mine", tmp_path / "data", tmp_path / "empty"
    empty.mkdir()
    shutil.copytree(CASES / "reads_its_folder", folder)
    (folder / "lib" / "template.py").write_text("def {{ name }}(:\n")  # in a package, but no Python
    (folder / "data" / ".notes.json.swp").write_text("hidden")
    (folder / ".env").write_text("OPENAI_API_KEY=sk-in-a-dot-env-file\n")
    program = ("--program", str(folder / "agent.py"), "--data-dir", str(data_dir), "--adapter", "json")
    model = ("--lm", "openai/fake", "--api-base", fake_openai.url, "--temperature", "0.3")
    words = ("--name", "from-a-script", "--description", "nightly", "--tag", "team=search", "--tag", "a=b=c")
    done = run(empty, str(REPO / "app.py"), "log", *program, *model, *words)
    assert not any(noise in done.stderr for noise in ("Warning", "alembic", "INFO"))
    assert not list(empty.iterdir())
    assert not fake_openai.requests, "no language model was called"
    (uri,) = done.stdout.splitlines()
    assert uri == "models:/from-a-script/1"
    store = VersionStore(Settings(data_dir=data_dir))
    version = store.get(uri)
    tags = store.tracking.client.get_model_version("from-a-script", "1").tags
    assert (version.lm, tags["adapter"]) == ("openai/fake", "json")
    assert (version.description, version.tags) == ("nightly", {"team": "search", "a": "b=c"})
    assert version.files == ("data/notes.json", "data/opt.json")

    with (folder / "helpers.py").open("a") as file:
        file.write("\n# another day\n")
    spec = load_program(str(folder / "agent.py"))
    assert not store.get(uri).same_code
    with pytest.raises(VersionNotServable, match="Serve it instead"):
        store.load(uri)
    shutil.copy(CASES / "reads_its_folder" / "helpers.py", folder)
    with pytest.raises(VersionNotLogged, match=r"helpers\.py changed after this app loaded it"):
        store.log(LogRequest("days", spec.name, BUILTIN), ProgramRegistry([spec]))
    folder.rename(tmp_path / "moved")

    fake_openai.reply(fields={"reasoning": "r", "answer": "Cats?"})
    fake_openai.reply(fields={"person": '{"name": "Ann", "age": 3}', "answer": "They purr."})
    server = start_model_server(uri, Settings(data_dir=data_dir), home)
    try:
        server.wait_until_healthy("/ping")
        async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
            reply = await client.post(f"{server.url}/predict", json={"text": "What do cats do?"})
    finally:
        server.stop()
    answered = reply.json()["data"]
    assert answered["answer"] == "They purr.", reply.text
    assert answered["person"] == {"name": "Ann", "age": 3}
    first, second = (json.dumps(request.json["messages"]) for request in fake_openai.requests)
    assert "Demo!" in first, "the optimised state"
    assert "cats purr" in second, "the data"
    assert fake_openai.requests[0].json["temperature"] == 0.3


def test_a_mistake_in_the_command_is_one_sentence(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, store_dir: Path
) -> None:
    caplog.set_level("WARNING")  # the command sets another; this is set back
    for arguments, sentence in (
        (["--name", "a/b"], "name may hold"),
        (["--tag", "no-equals"], "KEY=VALUE"),
        (["--program", "nothing.py"], "there is no file"),
        (["--lm", "openai/gpt-4o"], "needs a key"),
    ):
        assert command.log_command(["--data-dir", str(store_dir), *arguments], {}) == 2
        printed = capsys.readouterr()
        assert printed.out == "" and sentence in printed.err and "Traceback" not in printed.err


def test_a_shipped_program_keeps_what_optimised_it_and_its_adapter(
    store: VersionStore, artifacts: Callable[[str], Path], name: str
) -> None:
    """And its files name nothing of this app; loaded back, it leaves the process as it was."""
    programs = ProgramRegistry(SHIPPED)
    module = programs.module("react")
    module.react.demos = [dspy.Example(question="6 * 7?", next_thought="forty-two").with_inputs("question")]
    module.react.signature = module.react.signature.with_instructions("Answer in words.")
    choice = LMChoice("demo/engine", temperature=0.5)
    version = store.log(LogRequest(name, "react", choice, "first try", {"team": "search"}), programs, "json")
    assert (version.uri, version.program, version.lm) == (f"models:/{name}/1", "react", "demo/engine")
    assert version.servable and version.same_code and not version.reason and not version.aliases
    assert store.get(version.uri) == version
    assert store.tracking.client.get_model_version(name, "1").tags["temperature"] == "0.5"

    folder = artifacts(version.uri)
    model = Model.load(str(folder))
    assert "dspy" in model.flavors and "messages" in model.get_input_schema().input_names()
    pinned = (folder / "requirements.txt").read_text().split()
    assert {"dspy", "mlflow", "litellm"} <= {line.partition("==")[0] for line in pinned}
    (package,) = (folder / "code").iterdir()
    assert package.name != "dspy_demo" and (package / "programs" / "chat_program.py").is_file()
    code = list(package.rglob("*.py"))
    assert not [path for path in code if {"ui", "api", "tests"} & set(path.parts[len(package.parts) :])]
    assert not [path for path in code if "dspy_demo." in path.read_text()]

    before = dict(dspy.settings.config)
    with ThreadPoolExecutor(4) as threads:
        loaded, *_ = threads.map(store.load, [version.uri] * 4)
    assert dict(dspy.settings.config) == before
    react = loaded.build().react
    assert react.demos[0]["next_thought"] == "forty-two"
    assert react.signature.instructions == "Answer in words."
    assert type(loaded.build()) is type(module)
    spec = programs.get("react")
    assert (loaded.name, loaded.adapter, loaded.inputs) == ("react", "json", spec.inputs)
    assert loaded.outputs == spec.outputs


@pytest.mark.usefixtures("imports_undone")
def test_what_does_not_travel_is_named(
    store: VersionStore,
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "planted-key-of-another-provider")
    for number, (line, said) in enumerate(
        (
            ('KEY = os.environ["ANTHROPIC_API_KEY"]', "--serve-env ANTHROPIC_API_KEY"),
            ('if HERE.name == "code": raise ValueError("their own words")', "ValueError in left_out_1.py"),
        )
    ):
        path = tmp_path / f"left_out_{number}.py"
        path.write_text(
            f"import os\nfrom pathlib import Path\nimport dspy\nHERE = Path(__file__).parent\n{line}\n"
            "class Mine(dspy.Module):\n"
            "    def __init__(self):\n        super().__init__()\n"
            "        self.ask = dspy.Predict('question -> answer')\n"
            "    def forward(self, question: str):\n        return self.ask(question=question)\n"
        )
        spec = load_program(str(path))
        with pytest.raises(VersionNotLogged) as caught:
            store.log(LogRequest(name, spec.name, BUILTIN), ProgramRegistry([spec]))
        message = caught.value.public_message
        assert said in message and "dspy-demo-version-" not in message
        assert "their own words" not in message + caplog.text
    assert not store.tracking.client.search_registered_models(f"name='{name}'")


def test_hidden_files_and_links_stay_and_large_ones_are_refused(tmp_path: Path) -> None:
    code, data, hidden, link = (tmp_path / part for part in ("code", "data.json", ".hidden.json", "link"))
    for path in (data, hidden):
        path.write_text("{}")
    link.symlink_to(data)
    opened = {path.name: path for path in (data, hidden, link, tmp_path / "gone")}
    assert new_process._travelling(opened, code) == ["data.json"]
    (tmp_path / "large").write_bytes(b" " * 10_000_001)
    with pytest.raises(new_process.Refused, match="more than 10 MB"):
        new_process._travelling({"large": tmp_path / "large"}, code)


NOTEBOOK = """
import sys, dspy
from pathlib import Path
from dspy_demo.events import LMChoice
from dspy_demo.programs.own import spec_of
from dspy_demo.programs.registry import ProgramRegistry
from dspy_demo.settings import Settings
from dspy_demo.versions import LogRequest, VersionStore

class Loud(dspy.Module):
    def __init__(self):
        super().__init__()
        self.ask = dspy.Predict("question -> answer")
    def forward(self, question: str):
        return dspy.Prediction(answer=self.ask(question=question).answer.upper())

store = VersionStore(Settings(data_dir=Path(sys.argv[1])))
programs = ProgramRegistry([spec_of(Loud(), name="loud")])
print(store.log(LogRequest("loud", "loud", LMChoice("demo/engine")), programs).uri)
"""


def test_a_program_without_a_file_travels_in_the_pickle(data_dir: Path, home: Path) -> None:
    """As from a notebook: its class is in ``__main__``, which the process that loads it has not."""
    assert run(home, "-W", "ignore", "-c", NOTEBOOK, str(data_dir)).stdout.strip() == "models:/loud/1"


def test_a_check_ends_with_the_app(store_dir: Path, name: str) -> None:
    store, failed = VersionStore(Settings(data_dir=store_dir)), list[Exception]()

    def log() -> None:
        try:
            store.log(LogRequest(name, "predict", BUILTIN), ProgramRegistry(SHIPPED))
        except VersionNotLogged as error:
            failed.append(error)

    before, logging = live_children(), threading.Thread(target=log)
    logging.start()
    wait_until(lambda: live_children() - before, 20, "the process runs")
    store.close()
    logging.join(10)
    assert failed and live_children() == before
