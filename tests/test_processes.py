"""A child process and its owner: every way to start, to end, and to leave nothing behind."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dspy_demo.processes import ChildFailed, ChildProcess
from tests.fake_openai import free_port
from tests.processes import REPO, group_of
from tests.services import until

#: A server with a child of its own, as `mlflow server` has one.
SERVER = """
import http.server, os, signal, subprocess, sys
if "stubborn" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", sys.argv[1]])
print("x" * 100_000, "listening", os.environ.get("SECRET", ""), flush=True)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), http.server.SimpleHTTPRequestHandler).serve_forever()
"""
SLEEPER = "import time; time.sleep(60)"

Make = Callable[..., ChildProcess]


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Make]:
    made: list[ChildProcess] = []

    def child(*arguments: str, code: str = SERVER, **options: Any) -> ChildProcess:
        port = free_port()
        command = [sys.executable, "-c", code, str(port), *arguments]
        options = {"run_dir": tmp_path / "run", "health_url": f"http://127.0.0.1:{port}/"} | options
        made.append(ChildProcess("test server", command, **options))
        return made[-1]

    yield child
    await asyncio.gather(*(child.stop() for child in made))


async def test_from_its_start_to_the_end_of_its_whole_group(make):
    child = make(env=dict(os.environ) | {"SECRET": "planted"})
    assert child.state().phase == "new"
    state = await child.start(timeout_s=10)
    assert state.phase == "ready"
    assert len(group_of(state.pid)) == 3  # the warden, the server, and what that started
    assert "listening planted" in child.log_tail() and len(child.log_tail()) < 20_000
    assert b"planted" not in Path(f"/proc/{state.pid}/cmdline").read_bytes()
    await child.stop()
    await until(lambda: group_of(state.pid) == set(), 5)
    assert (child.state().phase, child.state().reason) == ("stopped", "")
    await child.stop()


async def test_what_ignores_sigterm_is_killed_after_the_grace(make):
    child = make("stubborn", stop_grace_s=0.3)
    pid = (await child.start(timeout_s=10)).pid
    async with asyncio.timeout(3):
        await child.stop()
    await until(lambda: group_of(pid) == set(), 5)
    assert child.state().phase == "stopped"


async def test_a_crash_is_noticed_at_once_and_leaves_nothing(make):
    child = make()
    leader = (await child.start(timeout_s=10)).pid
    assert leader is not None
    os.kill(min(group_of(leader) - {leader}), signal.SIGKILL)
    await until(lambda: child.state().phase == "failed", 2)
    assert child.state().exit_code == 137
    assert "signal 9" in child.state().reason
    await until(lambda: group_of(leader) == set(), 2)


async def test_what_cannot_start_says_so_and_hangs_nothing(make, tmp_path):
    ended = make(code="import sys; print('no such model'); sys.exit(3)")
    with pytest.raises(ChildFailed, match="exit code 3"):
        await ended.start(timeout_s=10)
    assert (ended.state().phase, ended.log_tail()) == ("failed", "no such model")

    missing = ChildProcess("thing", ["/no/such"], run_dir=tmp_path, health_url="http://127.0.0.1:1/")
    with pytest.raises(ChildFailed):
        await missing.start(timeout_s=10)
    assert "No such file" in missing.log_tail()

    (tmp_path / "file").touch()
    unwritable = make(run_dir=tmp_path / "file" / "run")
    with pytest.raises(ChildFailed, match="could not be started: Not a directory"):
        await unwritable.start(timeout_s=60)


@pytest.mark.parametrize("way", ["timeout", "stop", "cancel"])
async def test_a_start_that_is_given_up_leaves_nothing(make, way):
    child = make(code=SLEEPER)
    starting = asyncio.create_task(child.start(timeout_s=0.6 if way == "timeout" else 30))
    await until(lambda: child.state().pid, 5)
    pid = child.state().pid
    if way == "cancel":
        starting.cancel()
    elif way == "stop":
        await child.stop()
    expected = {"timeout": r"within 0\.6 seconds", "stop": "was stopped"}.get(way)
    with pytest.raises(asyncio.CancelledError if way == "cancel" else ChildFailed, match=expected):
        await starting
    await until(lambda: group_of(pid) == set(), 5)
    assert child.state().phase == ("failed" if way == "timeout" else "stopped")


# --- when the app dies ---

PARENT = f"""
import asyncio, sys
from pathlib import Path
sys.path.insert(0, {str(REPO)!r})
from dspy_demo.processes import ChildProcess
async def main():
    command = [sys.executable, "-c", Path(sys.argv[1]).read_text(), sys.argv[2], *sys.argv[4:]]
    url = f"http://127.0.0.1:{{sys.argv[2]}}/"
    child = ChildProcess("test server", command, run_dir=Path(sys.argv[3]), health_url=url, stop_grace_s=0.5)
    print((await child.start(timeout_s=10)).pid, flush=True)
    if "exits" not in sys.argv:
        await asyncio.sleep(600)
asyncio.run(main())
"""


@pytest.fixture
def parent(tmp_path: Path) -> Iterator[Callable[[str], tuple[subprocess.Popen[str], int]]]:
    """Start an app with one child; gives its process and the child's group."""
    started: list[subprocess.Popen[str]] = []

    def start(manner: str) -> tuple[subprocess.Popen[str], int]:
        code = tmp_path / "server.py"
        code.write_text(SERVER)
        arguments = [str(code), str(free_port()), str(tmp_path / "run"), manner]
        process = subprocess.Popen(
            [sys.executable, "-c", PARENT, *arguments], stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout is not None
        return process, int(process.stdout.readline())

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("manner", ["obedient", "stubborn", "exits"])
async def test_the_child_goes_with_the_app(parent, manner):
    process, leader = parent(manner)
    if manner != "exits":
        assert len(group_of(leader)) == 3
        process.kill()
    await until(lambda: group_of(leader) == set(), 5)
