"""A house as its users meet it, by its own process: this checkout, or another one by ``--house PATH``.

    git worktree add /tmp/before ef89426
    python -m pytest tests/black_box --house /tmp/before

The tests say nothing of what is inside, so the same lines hold before and after a rebuild.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fake_openai import FakeOpenAI, free_port
from tests.processes import REPO, ServerProcess, start_process

KEY = "sk-black-box"


@dataclass
class House:
    """A checkout, a data folder, and the stand-in for the paid model that it asks."""

    checkout: Path
    folder: Path
    upstream: FakeOpenAI

    @property
    def model(self) -> list[str]:
        return ["--lm", "openai/stand-in", "--api-base", self.upstream.url]

    @contextmanager
    def running(
        self, module: str, *arguments: str, env: dict[str, str] | None = None
    ) -> Iterator[ServerProcess]:
        """A server of the checkout: ``app.py``, or the model server ``-m dspy_demo.serving``."""
        port = free_port()
        command = [*module.split(), *arguments, "--host", "127.0.0.1", "--port", str(port)]
        command += ["--data-dir", str(self.folder / "data")]
        keys = {"OPENAI_API_KEY": KEY} | (env or {})
        server = start_process(command, port=port, home=self.folder / "home", env=keys, cwd=self.checkout)
        try:
            server.wait_until_healthy()
            yield server
        finally:
            server.stop()

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """``python app.py ...`` to its end."""
        data = ["--data-dir", str(self.folder / "data")]
        return subprocess.run(
            [sys.executable, "app.py", *arguments, *data],
            cwd=self.checkout,
            env={
                "HOME": str(self.folder / "home"),
                "PATH": str(Path(sys.executable).parent),
                "OPENAI_API_KEY": KEY,
            },
            capture_output=True,
            text=True,
            timeout=120,
        )


@pytest.fixture(scope="module")
def house(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, upstream: FakeOpenAI
) -> House:
    checkout = Path(request.config.getoption("--house") or REPO)
    return House(checkout.resolve(), tmp_path_factory.mktemp("house"), upstream)


@pytest.fixture(scope="module")
def app(house: House) -> Iterator[ServerProcess]:
    with house.running("app.py", "--no-open", *house.model, env={"DSPY_DEMO_TRACING": "true"}) as server:
        yield server
