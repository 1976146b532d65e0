"""A child process and its owner: every way to start, to end, and to leave nothing behind."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from dspy_demo.processes import ChildFailed, ChildProcess, ChildState
from tests.fake_openai import free_port
from tests.processes import REPO, group_of, wait_until

#: A server with a child of its own, as `mlflow server` has one.
SERVER = """
import http.server, os, signal, subprocess, sys
if "stubborn" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", sys.argv[1]])
print("listening", os.environ.get("SECRET", ""), flush=True)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), http.server.SimpleHTTPRequestHandler).serve_forever()
"""

Make = Callable[..., ChildProcess]


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Make]:
    made: list[ChildProcess] = []

    def child(*arguments: str, code: str = SERVER, healthy: bool = True, **options: Any) -> ChildProcess:
        port = free_port()
        options.setdefault("health_url", f"http://127.0.0.1:{port}/" if healthy else None)
        command = [sys.executable, "-c", code, str(port), *arguments]
        made.append(ChildProcess("test server", command, run_dir=tmp_path / "run", **options))
        return made[-1]

    yield child
    await asyncio.gather(*(child.stop() for child in made))


async def until(condition: Callable[[], Any], timeout_s: float = 5.0) -> None:
    await asyncio.to_thread(wait_until, condition, timeout_s, "the condition of the test")


async def test_it_is_ready_when_it_answers(make: Make) -> None:
    seen: list[ChildState] = []
    child = make()
    assert child.state().phase == "new"
    state = await child.start(timeout_s=10, on_progress=seen.append)
    assert state.phase == "ready"
    assert state.pid in group_of(state.pid)
    assert len(group_of(state.pid)) == 3  # the warden, the server, and what that started
    assert all(progress.phase == "starting" for progress in seen)  # none where it answers at once
    assert "listening" in child.log_tail()


async def test_stop_ends_the_whole_group(make: Make) -> None:
    child = make()
    pid = (await child.start(timeout_s=10)).pid
    await child.stop()
    await until(lambda: group_of(pid) == set())
    assert (child.state().phase, child.state().reason) == ("stopped", "")
    await child.stop()


async def test_what_ignores_sigterm_is_killed_after_the_grace(make: Make) -> None:
    child = make("stubborn", stop_grace_s=0.3)
    pid = (await child.start(timeout_s=10)).pid
    begun = time.monotonic()
    await child.stop()
    assert 0.2 < time.monotonic() - begun < 3
    await until(lambda: group_of(pid) == set())
    assert child.state().phase == "stopped"


@pytest.mark.parametrize("victim", ["the leader", "the server"])
async def test_a_crash_is_noticed_at_once_and_leaves_nothing(make: Make, victim: str) -> None:
    child = make()
    leader = (await child.start(timeout_s=10)).pid
    assert leader is not None
    server = min(group_of(leader) - {leader})
    os.kill(leader if victim == "the leader" else server, signal.SIGKILL)
    await until(lambda: child.state().phase == "failed", 2)
    assert child.state().exit_code == 137
    assert "signal 9" in child.state().reason
    await until(lambda: group_of(leader) == set(), 2)


async def test_a_child_that_ends_at_start_says_so(make: Make) -> None:
    child = make(code="import sys; print('no such model'); sys.exit(3)")
    with pytest.raises(ChildFailed, match="exit code 3"):
        await child.start(timeout_s=10)
    assert child.state().phase == "failed"
    assert child.log_tail() == "no such model"


async def test_a_command_that_does_not_exist(tmp_path: Path) -> None:
    child = ChildProcess("thing", ["/does/not/exist"], run_dir=tmp_path, health_url="http://127.0.0.1:1/")
    with pytest.raises(ChildFailed):
        await child.start(timeout_s=10)
    assert "No such file" in child.log_tail()


async def test_a_folder_that_cannot_be_written_is_told_and_hangs_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    child = ChildProcess("thing", [sys.executable, "-c", ""], run_dir=tmp_path / "file" / "run")
    async with asyncio.timeout(5):
        with pytest.raises(ChildFailed, match="could not be started: Not a directory"):
            await child.start(timeout_s=60)
        await child.stop()
    assert child.state().phase == "failed"


async def test_a_child_that_never_answers_is_stopped(make: Make) -> None:
    child = make(code="import time; time.sleep(60)")
    starting = asyncio.create_task(child.start(timeout_s=0.6))
    await until(lambda: child.state().pid)
    pid = child.state().pid
    with pytest.raises(ChildFailed, match=r"within 0\.6 seconds"):
        await starting
    await until(lambda: group_of(pid) == set())
    assert child.state().phase == "failed"


async def test_stop_while_it_starts(make: Make) -> None:
    child = make(code="import time; time.sleep(60)")
    starting = asyncio.create_task(child.start(timeout_s=30))
    await until(lambda: child.state().pid)
    await child.stop()
    with pytest.raises(ChildFailed, match="was stopped"):
        await starting
    assert child.state().phase == "stopped"


async def test_cancelling_the_start_stops_it(make: Make) -> None:
    child = make(code="import time; time.sleep(60)")
    starting = asyncio.create_task(child.start(timeout_s=30))
    await until(lambda: child.state().pid)
    pid = child.state().pid
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    await until(lambda: group_of(pid) == set())


async def test_the_log_tail_is_bounded(make: Make) -> None:
    code = "import time; print('x' * 100_000); print('\\xff last', flush=True); time.sleep(60)"
    child = make(code=code, healthy=False)
    await child.start(timeout_s=10)
    await until(lambda: child.log_tail().endswith("last"))
    assert len(child.log_tail()) < 20_000


async def test_secrets_go_through_the_environment(make: Make, tmp_path: Path) -> None:
    child = make(env=dict(os.environ) | {"SECRET": "planted"})
    pid = (await child.start(timeout_s=10)).pid
    assert "planted" in child.log_tail()
    assert b"planted" not in Path(f"/proc/{pid}/cmdline").read_bytes()
    assert child.log_path.stat().st_mode & 0o077 == 0
    assert (tmp_path / "run").stat().st_mode & 0o077 == 0


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
def parent(tmp_path: Path) -> Any:
    """Start an app with one child; gives its process and the child's group."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> tuple[subprocess.Popen[str], int]:
        code = tmp_path / "server.py"
        code.write_text(textwrap.dedent(SERVER))
        command = [
            sys.executable,
            "-c",
            PARENT,
            str(code),
            str(free_port()),
            str(tmp_path / "run"),
            *arguments,
        ]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        return process, int(process.stdout.readline())

    yield start
    for process in started:
        process.kill()
        process.wait(5)
        assert process.stdout is not None
        process.stdout.close()


@pytest.mark.parametrize("arguments", [[], ["stubborn"]], ids=["obedient", "stubborn"])
async def test_the_child_goes_when_the_app_is_killed(parent: Any, arguments: list[str]) -> None:
    process, leader = parent(*arguments)
    assert len(group_of(leader)) == 3
    process.kill()
    await until(lambda: group_of(leader) == set(), 3)


async def test_the_child_goes_when_the_app_ends_without_a_word(parent: Any) -> None:
    process, leader = parent("exits")
    assert process.wait(10) == 0
    await until(lambda: group_of(leader) == set(), 2)
