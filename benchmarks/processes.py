"""A process that is measured: its CPU and memory, with those of its children, from ``/proc``."""

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.processes import REPO, ServerProcess, start_process

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


@dataclass
class Process:
    """A server that answers; `ready_s` is how many seconds that took from its start."""

    server: ServerProcess
    ready_s: float

    @property
    def url(self) -> str:
        return self.server.url

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
    def memory_mb(self) -> float:
        """Resident memory of the process and all below it, in MB; what they share is counted once."""
        total = 0
        for pid in self.pids:
            with contextlib.suppress(OSError):
                lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
                total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        return total / 1000

    @property
    def pids(self) -> list[int]:
        """The process and all below it."""
        parents = {}
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                parents[int(path.name)] = int(_stat(int(path.name))[1])
        found = [self.server.process.pid]
        for pid in found:
            found += [child for child, parent in parents.items() if parent == pid]
        return found


@contextmanager
def running(
    command: Sequence[str], port: int, *, ready_path: str, env: Mapping[str, str], cwd: Path = REPO
) -> Iterator[Process]:
    """``python COMMAND`` with a home folder of its own; both are gone at the end of the block."""
    with tempfile.TemporaryDirectory(prefix="benchmark-home-", ignore_cleanup_errors=True) as home:
        started = time.perf_counter()
        server = start_process(command, port=port, home=Path(home), env=env, cwd=cwd)
        try:
            server.wait_until_healthy(ready_path, timeout=180)
            yield Process(server, time.perf_counter() - started)
        finally:
            server.stop()


def _stat(pid: int) -> list[str]:
    """The fields of ``/proc/PID/stat`` behind the command's name: state, parent, ..."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
