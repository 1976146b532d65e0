"""``python -m dspy_demo.serving`` where it cannot start: one sentence, and a port that nobody else takes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.backends.served_fixtures import (
    LIVE_ENV,
    ServedWorld,
    served_session,
    served_world,
    start_model_server,
)
from tests.environment import scrubbed
from tests.processes import REPO, wait_until

pytestmark = pytest.mark.integration

__all__ = ["served_session", "served_world"]


def run(world: ServedWorld, *arguments: str, **env: str) -> tuple[int, str]:
    """The exit code and the output of ``python -m dspy_demo.serving``."""
    done = subprocess.run(
        [sys.executable, "-m", "dspy_demo.serving", *arguments],
        cwd=REPO,
        env=scrubbed(os.environ, world.home) | LIVE_ENV | env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_an_unknown_version_ends_with_a_sentence(served_world: ServedWorld) -> None:
    data_dir = str(served_world.settings.data_dir)
    code, output = run(served_world, "models:/served@champion", "--port", "0", "--data-dir", data_dir)
    assert (code, output) == (
        3,
        "There is no version models:/served@champion. Check its name, number or alias in MLflow.\n",
    )


def test_no_database_ends_with_a_sentence_and_makes_none(served_world: ServedWorld, tmp_path: Path) -> None:
    code, output = run(served_world, "models:/served/1", "--data-dir", str(tmp_path))
    assert code == 3
    assert output.count("\n") == 1 and "There is no version models:/served/1" in output
    assert not list(tmp_path.glob("*.db"))


def test_a_port_in_use_ends_with_a_sentence(served_world: ServedWorld) -> None:
    code, output = run(served_world, served_world.version, "--port", str(served_world.live.port))
    assert code == 2
    in_use = f"Port {served_world.live.port} of 127.0.0.1 is in use."
    assert output == f"{in_use} Choose another one with --port.\n"


def test_two_starts_cannot_take_one_port(served_world: ServedWorld) -> None:
    """The first one still loads, and answers nothing yet."""
    server = start_model_server(served_world.version, served_world.settings, served_world.home)
    try:
        wait_until(lambda: listens(server.port), 20, "the port is taken")
        code, output = run(served_world, served_world.version, "--port", str(server.port))
        assert (code, "is in use" in output) == (2, True)
    finally:
        server.stop()


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_a_host_that_is_none_of_this_machine_is_named(served_world: ServedWorld) -> None:
    code, output = run(served_world, served_world.version, "--host", "203.0.113.7")
    assert (code, output.count("\n")) == (2, 1)
    assert "203.0.113.7 is not an address of this machine" in output


def test_a_wrong_setting_ends_with_a_sentence(served_world: ServedWorld) -> None:
    code, output = run(served_world, served_world.version, DSPY_DEMO_MAX_TURNS="many")
    assert code == 2
    assert output.count("\n") == 1 and "DSPY_DEMO_MAX_TURNS" in output


def test_sigterm_while_it_loads(served_world: ServedWorld) -> None:
    server = start_model_server(served_world.version, served_world.settings, served_world.home)
    wait_until(lambda: Path(f"/proc/{server.process.pid}/status").exists(), 5, "it runs")
    time.sleep(1)
    server.process.terminate()
    assert server.process.wait(10) in {0, -signal.SIGTERM}
