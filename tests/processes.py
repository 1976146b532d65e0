"""The app and its servers as real processes, and the proof that nothing of them stays behind."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from dspy_demo.processes import free_port
from tests.environment import scrubbed

REPO = Path(__file__).resolve().parent.parent
START_DEADLINE_S, STOP_DEADLINE_S = 60, 15
# Started by Python's multiprocessing itself, once for the life of a process.
_LONG_LIVED = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")
#: Tracing is off but where a test is about it: the first trace imports MLflow, for seconds.
QUIET = {"PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1", "DSPY_DEMO_TRACING": "false"}


def wait_until(condition, timeout, what):
    """What `condition` gives as soon as it is true; `what` names it in the failure."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {timeout} s: {what}")
        time.sleep(0.01)
    return value


@dataclass
class ServerProcess:
    """A running server: the leader of a process group of its own."""

    process: subprocess.Popen[bytes]
    port: int
    log_path: Path

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self):
        return self.log_path.read_text(errors="replace")

    @property
    def group_ended(self):
        """No process of the group runs any more."""
        self.process.poll()  # reaps the leader
        return not group_of(self.process.pid)

    def wait_until_healthy(self, path="/health", timeout=START_DEADLINE_S):
        def healthy():
            assert self.process.poll() is None, f"ended at start:\n{self.log[-4000:]}"
            with contextlib.suppress(httpx.HTTPError):
                return httpx.get(self.url + path, timeout=2, trust_env=False, verify=False).status_code == 200

        wait_until(healthy, timeout, f"{self.url}{path} answers")

    def stop(self, timeout=STOP_DEADLINE_S):
        """SIGTERM to the whole group; its exit code. What is left at the deadline is killed and told."""
        self._signal(signal.SIGTERM)
        try:
            wait_until(lambda: self.group_ended, timeout, "the process group ends")
        except TimeoutError:
            left = describe(group_of(self.process.pid))
            self._signal(signal.SIGABRT)  # Python's fault handler then writes what each thread does
            self.process.wait(5)
            self._signal(signal.SIGKILL)
            raise AssertionError(f"still running after SIGTERM: {left}\n{self.log[-12_000:]}") from None
        return self.process.wait(5)

    def _signal(self, number):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)


def start_process(command, *, port, home, env=None, cwd=REPO):
    """Start ``python <command>`` in a checkout, in a scrubbed environment and its own group."""
    home.mkdir(parents=True, exist_ok=True)
    log_path = home / f"process-{port}.log"
    environment = scrubbed(os.environ, home) | QUIET | (env or {})
    with log_path.open("wb") as log:
        streams = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": subprocess.STDOUT}
        command = [sys.executable, *command]
        process = subprocess.Popen(command, cwd=cwd, env=environment, start_new_session=True, **streams)
    return ServerProcess(process, port, log_path)


@contextmanager
def running_app(*args, data_dir, home, env=None, script=("app.py",)):
    """``python app.py`` on a free port, healthy; stopped and proven gone at the end."""
    port = free_port()
    command = [*script, "--host", "127.0.0.1", "--port", str(port), "--no-open", "--data-dir", str(data_dir)]
    server = start_process([*command, *args], port=port, home=home, env=env)
    try:
        server.wait_until_healthy()
        yield server
    finally:
        server.stop()


def live_children():
    """The running direct children of this process; empty where there is no /proc."""
    own = {
        pid for pid, (state, parent, _) in _process_table().items() if parent == os.getpid() and state != "Z"
    }
    return {pid for pid in own if not any(name in _command(pid) for name in _LONG_LIVED)}


def group_of(leader):
    """The running processes of a process group."""
    return {pid for pid, (state, _, group) in _process_table().items() if group == leader and state != "Z"}


def model_server_of(data_dir, version):
    """The process that serves a version for the app of a data folder: not its warden."""
    for pid in _process_table():
        words = _command(pid).split()
        ours = {"dspy_demo.serving", str(data_dir), version} <= set(words)
        if ours and not any(word.endswith("warden.py") for word in words):
            return pid
    raise AssertionError("no model server runs")


def describe(pids):
    return ", ".join(f"{pid}: {_command(pid)}" for pid in sorted(pids))


def _process_table():
    """(state, parent, process group) of every process."""
    table = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent, group = path.read_text().rpartition(")")[2].split()[:3]
            table[int(path.parent.name)] = (state, int(parent), int(group))
    return table


def _command(pid):
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").strip()
    return "?"
