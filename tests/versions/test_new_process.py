"""A version is what a new process can load: what it needs travels along, or the log says what is missing."""

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dspy
import httpx
import pytest

from dspy_demo.errors import VersionNotLogged, VersionNotServable
from dspy_demo.events import LMChoice
from dspy_demo.programs.own import load_program
from dspy_demo.programs.registry import ProgramRegistry
from dspy_demo.settings import Settings
from dspy_demo.versions import LogRequest, VersionStore, new_process
from tests.backends.served_fixtures import start_model_server
from tests.processes import REPO, live_children, wait_until
from tests.versions.conftest import PROGRAM

pytestmark = pytest.mark.integration

BUILTIN = LMChoice("demo/engine")
CASES = Path(__file__).parent.parent / "cases"


def run(cwd, *arguments):
    environment, command = os.environ | {"PYTHONPATH": str(REPO)}, [sys.executable, *arguments]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return done


def test_what_it_reads_travels_along(tmp_path, home, fake_openai):
    """By ``python app.py log``: data and optimised state beside the source. Other code never answers for it.

    Then the source is moved away, and the version served.
    """
    folder, data_dir, empty = tmp_path / "mine", tmp_path / "data", tmp_path / "empty"
    empty.mkdir()
    shutil.copytree(CASES / "reads_its_folder", folder)
    (folder / "lib" / "template.py").write_text("def {{ name }}(:\n")  # in a package, but no Python
    (folder / ".env").write_text("OPENAI_API_KEY=sk-in-a-dot-env-file\n")
    program = ("--program", str(folder / "agent.py"), "--data-dir", str(data_dir), "--adapter", "json")
    model = ("--lm", "openai/fake", "--api-base", fake_openai.url, "--temperature", "0.3")
    words = ("--name", "from-a-script", "--description", "nightly", "--tag", "team=search", "--tag", "a=b=c")
    done = run(empty, str(REPO / "app.py"), "log", *program, *model, *words)
    assert not any(noise in done.stderr for noise in ("Warning", "alembic", "INFO"))
    assert not list(empty.iterdir())
    assert not fake_openai.requests, "no language model was called"
    uri = "models:/from-a-script/1"
    assert done.stdout.split() == [uri]
    store = VersionStore(Settings(data_dir=data_dir))
    version = store.get(uri)
    assert (version.lm, version.notes["adapter"]) == ("openai/fake", "json")
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
        reply = httpx.post(f"{server.url}/predict", json={"text": "What do cats do?"}, timeout=60)
    finally:
        server.stop()
    answered = reply.json()["data"]
    assert (answered["answer"], answered["person"]) == ("They purr.", {"name": "Ann", "age": 3})
    first, second = (json.dumps(request.json["messages"]) for request in fake_openai.requests)
    assert "Demo!" in first, "the optimised state"
    assert "cats purr" in second, "the data"
    assert fake_openai.requests[0].json["temperature"] == 0.3


def test_a_shipped_program_keeps_what_optimised_it_and_its_adapter(store, programs, name):
    """And its files name nothing of this app; loaded back, it leaves the process as it was."""
    module = programs.module("react")
    module.react.demos = [dspy.Example(question="6 * 7?", next_thought="forty-two").with_inputs("question")]
    module.react.signature = module.react.signature.with_instructions("Answer in words.")
    choice = LMChoice("demo/engine", temperature=0.5)
    version = store.log(LogRequest(name, "react", choice, "first try", {"team": "search"}), programs, "json")
    assert (version.uri, version.program, version.lm) == (f"models:/{name}/1", "react", "demo/engine")
    assert version.servable and version.same_code and store.get(version.uri) == version

    folder = Path(store.tracking.client.get_model_version_download_uri(name, "1").removeprefix("file://"))
    pinned = {line.partition("==")[0] for line in (folder / "requirements.txt").read_text().split()}
    assert {"dspy", "mlflow", "litellm"} <= pinned
    code = list((folder / "code").rglob("*.py"))
    assert not [path for path in code if {"ui", "api", "tests"} & set(path.relative_to(folder).parts)]
    assert not [path for path in code if "dspy_demo." in path.read_text()]

    before = dict(dspy.settings.config)
    with ThreadPoolExecutor(4) as threads:
        loaded, *_ = threads.map(store.load, [version.uri] * 4)
    assert dict(dspy.settings.config) == before
    built, spec = loaded.build(), programs.get("react")
    assert type(built) is type(module) and built.react.demos[0]["next_thought"] == "forty-two"
    assert built.react.signature.instructions == "Answer in words."
    assert (loaded.adapter, loaded.inputs, loaded.outputs) == ("json", spec.inputs, spec.outputs)


def test_what_does_not_travel_is_named(store, name, program, monkeypatch):
    monkeypatch.setenv("ANTHROPIC_API_KEY", "planted-key-of-another-provider")
    away = 'if Path(__file__).parent.name == "code": raise ValueError("their own words")'
    for line, said in (
        ('KEY = os.environ["ANTHROPIC_API_KEY"]', "--serve-env ANTHROPIC_API_KEY"),
        (away, "ValueError in mine_"),
    ):
        programs = program(line)
        with pytest.raises(VersionNotLogged) as caught:
            store.log(LogRequest(name, programs.default.name, BUILTIN), programs)
        message = caught.value.public_message
        assert said in message and "dspy-demo-version-" not in message and "their own words" not in message


def test_hidden_files_and_links_stay_and_large_ones_are_refused(tmp_path):
    opened = {name: tmp_path / name for name in ("data.json", ".hidden.json", "link", "gone")}
    for name in ("data.json", ".hidden.json"):
        opened[name].write_text("{}")
    opened["link"].symlink_to(opened["data.json"])
    assert new_process._travelling(opened, tmp_path / "code") == ["data.json"]
    opened["gone"].write_bytes(b" " * 10_000_001)
    with pytest.raises(new_process.Refused, match="more than 10 MB"):
        new_process._travelling(opened, tmp_path / "code")


NOTEBOOK = """
from dspy_demo.events import LMChoice
from dspy_demo.programs.own import spec_of
from dspy_demo.programs.registry import ProgramRegistry
from dspy_demo.settings import Settings
from dspy_demo.versions import LogRequest, VersionStore
programs = ProgramRegistry([spec_of(Mine(), name="mine")])
request = LogRequest("mine", "mine", LMChoice("demo/engine"))
print(VersionStore(Settings(data_dir=Path(sys.argv[1]))).log(request, programs).uri)
"""


def test_a_program_without_a_file_travels_in_the_pickle(data_dir, home):
    """As from a notebook: its class is in ``__main__``, which the process that loads it has not."""
    done = run(home, "-W", "ignore", "-c", PROGRAM.format("", "") + NOTEBOOK, str(data_dir))
    assert done.stdout.strip() == "models:/mine/1"


def test_a_check_ends_with_the_app(store, name, programs):
    store, before = VersionStore(Settings(data_dir=store.tracking.data_dir)), live_children()
    with ThreadPoolExecutor(1) as threads:
        logging = threads.submit(store.log, LogRequest(name, "predict", BUILTIN), programs)
        wait_until(lambda: live_children() - before, 20, "the process runs")
        store.close()
        with pytest.raises(VersionNotLogged):
            logging.result(10)
    assert live_children() == before
