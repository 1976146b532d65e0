"""A logged version behind both kinds of server, over one fake upstream, started once for the whole run.

The processes are started by a session fixture, before the check for leftovers of a test looks.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import yaml

from dspy_demo.backends.served import ServedBackend
from dspy_demo.events import LMChoice, ServedTarget, TurnRequest
from dspy_demo.lm.choices import DEMO_MODEL
from dspy_demo.programs.registry import ProgramRegistry
from dspy_demo.programs.shipped import SHIPPED
from dspy_demo.settings import Settings
from dspy_demo.versions import LogRequest, VersionStore
from tests.fake_openai import FakeOpenAI, free_port
from tests.processes import ServerProcess, start_process
from tests.services import settings_for

#: For a plain `mlflow models serve`: DSPy's engine wants a key, and mlflow wants `uvicorn` on the path.
PLAIN_ENV = {
    "OPENAI_API_KEY": "placeholder",
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
}
#: For the model server: no retries, and no traces, for the first of which MLflow imports litellm.
LIVE_ENV = {"DSPY_DEMO_LM_RETRIES": "0", "DSPY_DEMO_TRACING": "false"}


@dataclass
class ServedWorld:
    """One store, four versions of chain of thought in it, and two servers of the first one."""

    fake: FakeOpenAI
    settings: Settings
    home: Path
    version: str  #: On the upstream `fake`.
    second: str  #: The same again.
    builtin: str  #: On the demo engine.
    keyless: str  #: On ``openai/gpt-4o-mini`` without a base URL, which needs a key.
    live: ServerProcess
    plain: ServerProcess

    def request(self, url, question="What is 2 + 2?", *, version="", **more):
        target = ServedTarget(url, self.version if version == "" else version)
        return TurnRequest(target, {"question": question}, session_id="a-session", **more)

    def backend(self, **settings):
        return ServedBackend(settings_for(self.settings.data_dir, **settings))


_running = ExitStack()


@pytest.fixture(scope="session")
def served_session(pytestconfig):
    """The one world of this run, whichever modules import the fixture."""
    pytestconfig.add_cleanup(_running.close)
    return _made()


@pytest.fixture
def served_world(served_session):
    """Both servers, and their upstream without scripted replies."""
    served_session.fake.reset()
    yield served_session
    served_session.fake.reset()


@cache
def _made():
    fake = _running.enter_context(FakeOpenAI())
    folder = Path(_running.enter_context(tempfile.TemporaryDirectory(prefix="dspy-demo-served-")))
    settings = settings_for(folder / "data", tracing=False)
    uris = log_versions(settings, LMChoice("openai/fake", fake.url, cache=False))
    client = VersionStore(settings).tracking.client
    logged = Path(str(client.get_model_version("served", "1").source).removeprefix("file://"))
    for number, model in enumerate(("openai/fake", DEMO_MODEL, "openai/gpt-4o-mini"), 2):
        # A log takes seconds, and the model that a version names is all that differs.
        files = shutil.copytree(logged, folder / f"files-{number}")
        mlmodel = yaml.safe_load((files / "MLmodel").read_text())
        lm = mlmodel["metadata"]["dspy_demo"]["lm"]
        lm.update({"model": model, "api_base": lm["api_base"] if model == "openai/fake" else None})
        (files / "MLmodel").write_text(yaml.safe_dump(mlmodel))
        client.create_model_version("served", str(files))
        uris.append(f"models:/served/{number}")
    home = folder / "home"
    live = start_model_server(uris[0], settings, home, env={"DSPY_DEMO_TRACING": "true"})
    _running.callback(live.stop)
    plain = start_plain_server(uris[0], settings, home)
    _running.callback(plain.stop)
    live.wait_until_healthy("/ping")
    plain.wait_until_healthy("/ping")
    return ServedWorld(fake, settings, home, *uris, live, plain)


def log_versions(settings, *choices):
    """A version of chain of thought for each model, in a new store; their URIs."""
    store, programs = VersionStore(settings), ProgramRegistry(SHIPPED)
    requests = [LogRequest("served", "chain_of_thought", choice) for choice in choices]
    return [store.log(request, programs).uri for request in requests]


def start_model_server(version, settings, home, *flags, env=None):
    """``python -m dspy_demo.serving``, not waited for."""
    port = free_port()
    command = ["-m", "dspy_demo.serving", version, "--port", str(port), "--data-dir", str(settings.data_dir)]
    return start_process([*command, *flags], port=port, home=home, env=LIVE_ENV | (env or {}))


def start_plain_server(version, settings, home):
    """``mlflow models serve``, not waited for."""
    port = free_port()
    command = ["-m", "mlflow", "models", "serve", "-m", version, "--env-manager", "local", "-p", str(port)]
    env = PLAIN_ENV | {"MLFLOW_TRACKING_URI": f"sqlite:///{settings.data_dir / 'mlflow.db'}"}
    return start_process(command, port=port, home=home, env=env)
