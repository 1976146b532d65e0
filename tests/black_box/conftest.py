"""A house as its users meet it, by its own process: this checkout, or another one by ``--house PATH``.

    git worktree add /tmp/before ef89426
    python -m pytest tests/black_box --house /tmp/before

The tests say nothing of what is inside, so the same lines hold before and after a rebuild.
"""

import os
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.environment import scrubbed
from tests.fake_openai import FakeOpenAI, free_port
from tests.processes import REPO, start_process

KEY = "sk-black-box"
REPLY = "[[ ## reasoning ## ]]\nSix times seven.\n\n[[ ## answer ## ]]\nIt is 42.\n\n[[ ## completed ## ]]\n"


@dataclass
class House:
    """A checkout, a data folder, and the stand-in for the paid model that it asks."""

    checkout: Path
    folder: Path
    upstream: FakeOpenAI

    @property
    def model(self):
        return ["--lm", "openai/stand-in", "--api-base", self.upstream.url]

    @contextmanager
    def running(self, module, *arguments, **env):
        """A server of the checkout: ``app.py``, or the model server ``-m dspy_demo.serving``."""
        port, env = free_port(), {"OPENAI_API_KEY": KEY, **env}
        command = [*module.split(), *arguments, "--host", "127.0.0.1", "--port", str(port)]
        command += ["--data-dir", str(self.folder / "data")]
        server = start_process(command, port=port, home=self.folder / "home", env=env, cwd=self.checkout)
        try:
            server.wait_until_healthy()
            yield server
        finally:
            server.stop()

    def command(self, *arguments):
        """``python app.py ...`` to its end."""
        command = [sys.executable, "app.py", *arguments, "--data-dir", str(self.folder / "data")]
        env = scrubbed(os.environ, self.folder / "home") | {"OPENAI_API_KEY": KEY}
        return subprocess.run(
            command, cwd=self.checkout, env=env, capture_output=True, text=True, timeout=120
        )


@pytest.fixture(scope="session")
def upstream():
    with FakeOpenAI() as fake:
        yield fake


@pytest.fixture(scope="session")
def house(pytestconfig, tmp_path_factory, upstream):
    checkout = Path(pytestconfig.getoption("--house") or REPO)
    return House(checkout.resolve(), tmp_path_factory.mktemp("house"), upstream)


@pytest.fixture(scope="session")
def app(house):
    with house.running("app.py", "--no-open", *house.model, DSPY_DEMO_TRACING="true") as server:
        yield server
