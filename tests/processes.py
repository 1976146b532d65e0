"""The app and its servers as real processes, and the proof that nothing of them stays behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tests.environment import scrubbed
from tests.fake_openai import free_port

T = TypeVar("T")

REPO = Path(__file__).resolve().parent.parent
START_DEADLINE_S = 60.0
STOP_DEADLINE_S = 15.0
# Started by Python's multiprocessing itself, once for the life of a process.
_LONG_LIVED = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")


def wait_until(condition: Callable[[], T], timeout: float, what: str) -> T:
    """What `condition` gives as soon as it is true; `what` names it in the failure."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {timeout} s: {what}")
        time.sleep(0.02)
    return value


@dataclass
class ServerProcess:
    """A running server: the leader of a process group of its own."""

    process: subprocess.Popen[bytes]
    url: str
    port: int
    log_path: Path

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    @property
    def group_ended(self) -> bool:
        """No process of the group runs any more."""
        self.process.poll()  # reaps the leader
        return not group_of(self.process.pid)

    def wait_until_healthy(self, path: str = "/health", timeout: float = START_DEADLINE_S) -> None:
        def healthy() -> bool:
            assert self.process.poll() is None, f"ended at start:\n{self.log[-4000:]}"
            return _answers(self.url + path)

        wait_until(healthy, timeout, f"{self.url}{path} answers")

    def stop(self, timeout: float = STOP_DEADLINE_S) -> int:
        """SIGTERM to the whole group; its exit code. What is left at the deadline is killed and told."""
        self._signal(signal.SIGTERM)
        try:
            wait_until(lambda: self.group_ended, timeout, "the process group ends")
        except TimeoutError:
            left = [_command(pid) for pid in group_of(self.process.pid)]
            self._signal(signal.SIGABRT)  # Python's fault handler then writes what each thread does
            self.process.wait(5)
            self._signal(signal.SIGKILL)
            raise AssertionError(f"still running after SIGTERM: {left}\n{self.log[-12_000:]}") from None
        return self.process.wait(5)

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)


#: Tracing is off but where a test is about it: the first trace imports MLflow, for seconds.
QUIET = {"PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1", "DSPY_DEMO_TRACING": "false"}


def start_process(
    command: Sequence[str], *, port: int, home: Path, env: Mapping[str, str] | None = None, cwd: Path = REPO
) -> ServerProcess:
    """Start ``python <command>`` in a checkout, in a scrubbed environment and its own group."""
    home.mkdir(parents=True, exist_ok=True)
    log_path = home / f"process-{port}.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=cwd,
            env=scrubbed(os.environ, home) | QUIET | dict(env or {}),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return ServerProcess(process, f"http://127.0.0.1:{port}", port, log_path)


@contextmanager
def running_app(
    *args: str,
    data_dir: Path,
    home: Path,
    env: Mapping[str, str] | None = None,
    script: Sequence[str] = ("app.py",),
) -> Iterator[ServerProcess]:
    """``python app.py`` on a free port, healthy; stopped and proven gone at the end."""
    port = free_port()
    command = [*script, "--host", "127.0.0.1", "--port", str(port), "--no-open", "--data-dir", str(data_dir)]
    server = start_process([*command, *args], port=port, home=home, env=env)
    try:
        server.wait_until_healthy()
        yield server
    finally:
        server.stop()


def live_children() -> set[int]:
    """The running direct children of this process; empty where there is no /proc."""
    return {
        pid
        for pid, (state, parent, _) in _process_table().items()
        if parent == os.getpid() and state != "Z" and not any(n in _command(pid) for n in _LONG_LIVED)
    }


def model_server_of(data_dir: Path, version: str) -> int:
    """The process that serves a version for the app of a data folder: not its warden."""
    for pid in _process_table():
        words = _command(pid).split()
        ours = {"dspy_demo.serving", str(data_dir), version} <= set(words)
        if ours and not any(word.endswith("warden.py") for word in words):
            return pid
    raise AssertionError("no model server runs")


def describe(pids: set[int]) -> str:
    return ", ".join(f"{pid}: {_command(pid)}" for pid in sorted(pids))


def _answers(url: str) -> bool:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(url, timeout=2) as response:
            return bool(response.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def group_of(leader: int | None) -> set[int]:
    """The running processes of a process group."""
    return {pid for pid, (state, _, group) in _process_table().items() if group == leader and state != "Z"}


def _process_table() -> dict[int, tuple[str, int, int]]:
    """(state, parent, process group) of every process."""
    table = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent, group = path.read_text().rpartition(")")[2].split()[:3]
            table[int(path.parent.name)] = (state, int(parent), int(group))
    return table


def _command(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").strip()
    return "?"
