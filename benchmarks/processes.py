"""A process that is measured: its CPU and memory, with those of its children, from ``/proc``.

CPU is counted by the kernel for each process alone, so that what else the machine does falsifies it little.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.environment import scrubbed

ROOT = Path(__file__).parent.parent
START_TIMEOUT_S = 180.0
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


class Process:
    """A server in a process group and a home folder of its own; both are gone at the end of the block.

    Attributes:
        ready_s: Seconds from its start until it answered.
    """

    ready_s: float = 0.0

    def __init__(
        self, command: Sequence[str], port: int, *, env: Mapping[str, str] | None = None, cwd: Path = ROOT
    ) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self._command = command
        self._env = dict(env or {})
        self._cwd = cwd

    def __enter__(self) -> Self:
        self._home = tempfile.TemporaryDirectory(prefix="benchmark-home-", ignore_cleanup_errors=True)
        self._log = Path(self._home.name, "log")
        self._started_at = time.perf_counter()
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=self._cwd,
                env=scrubbed(os.environ, Path(self._home.name)) | {"PYTHONPATH": str(ROOT)} | self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, patience_s in ((signal.SIGTERM, 8.0), (signal.SIGKILL, 5.0)):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)
            deadline = time.monotonic() + patience_s
            while self._process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.02)
            if self._process.poll() is not None:
                break
        self._home.cleanup()

    def wait_until_answers(self, path: str = "/") -> None:
        """Wait for any reply that is not an error of a server."""
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        while True:
            ended = self._process.poll() is not None
            if ended or time.perf_counter() - self._started_at > START_TIMEOUT_S:
                raise RuntimeError(f"{' '.join(self._command)} does not answer:\n{self.log[-4000:]}")
            try:
                with direct.open(self.url + path, timeout=5):
                    break
            except urllib.error.HTTPError as error:
                if error.code < 500:
                    break
            except OSError:
                pass
            time.sleep(0.01)
        self.ready_s = time.perf_counter() - self._started_at

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    @property
    def cpu_s(self) -> float:
        """CPU seconds of the process and all below it, so far."""
        total = 0.0
        for pid in self.pids:
            with contextlib.suppress(OSError):
                times = _stat(pid)[11:15]  # of itself, and of the children that it has waited for
                total += sum(map(int, times)) * _TICK_S
        return total

    @property
    def memory_bytes(self) -> int:
        """Resident memory of the process and all below it; what they share is counted once."""
        total = 0
        for pid in self.pids:
            with contextlib.suppress(OSError):
                lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
                total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
        return total

    @property
    def pids(self) -> list[int]:
        """The process and all below it."""
        parents = {}
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                parents[int(path.name)] = int(_stat(int(path.name))[1])
        found = [self._process.pid]
        for pid in found:
            found += [child for child, parent in parents.items() if parent == pid]
        return found


def _stat(pid: int) -> list[str]:
    """The fields of ``/proc/PID/stat`` behind the command's name: state, parent, ..."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def free_port() -> int:
    """A port where nothing listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
