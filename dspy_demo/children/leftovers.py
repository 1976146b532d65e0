"""Notes about running children, by which a later start finds what a crash left.

The warden ends a group whose app died, so that there is normally nothing to find; but it may have been killed
itself, or the machine may have had other ideas.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import signal
import subprocess
import time
from pathlib import Path

from dspy_demo.settings import ENV_PREFIX

log = logging.getLogger(__name__)

#: Tells each child, and what that starts, which note it belongs to.
RUN_FILE_VARIABLE = f"{ENV_PREFIX}RUN_FILE"
#: A number for each child of this process.
numbers = itertools.count(1)
#: Seconds that a leftover has between SIGTERM and SIGKILL.
GRACE_S = 3.0
#: Logs of children that are gone are kept so long, for whoever wants to know why.
LOGS_KEPT_S = 7 * 24 * 3600


def note(run_file: Path, leader: int) -> None:
    """Write down that the group of `leader` belongs to this process."""
    run_file.write_text(json.dumps({"leader": leader, "owner": os.getpid()}), encoding="utf-8")


def clean(run_dir: Path) -> list[str]:
    """End the groups whose owner is gone, and say which; remove their notes, and old logs.

    A group is ours if one of its processes knows the note, and left over if its leader's parent is no longer
    the process that wrote the note: two apps may share a data folder. Its leader may be gone too, where the
    warden was killed together with the app.
    """
    ended = []
    for run_file in sorted(run_dir.glob("*.json")):
        try:
            content = json.loads(run_file.read_text(encoding="utf-8"))
            leader, owner = int(content["leader"]), int(content["owner"])
        except (OSError, ValueError, KeyError, TypeError):
            continue  # not a note of ours
        parent, command = _process(leader)
        if parent == owner:
            continue
        if str(run_file) in command or _group_knows(leader, run_file):
            _end_group(leader)
            ended.append(f"{run_file.stem} (process {leader})")
            log.warning("ended what a crash of the app left running: %s", ended[-1])
        with contextlib.suppress(OSError):  # a read-only folder keeps its notes
            run_file.unlink()
    for old in run_dir.glob("*.log"):
        with contextlib.suppress(OSError):
            if time.time() - old.stat().st_mtime > LOGS_KEPT_S:
                old.unlink()
    return ended


def _end_group(leader: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGTERM)
        deadline = time.monotonic() + GRACE_S
        while time.monotonic() < deadline:
            time.sleep(0.05)
            os.killpg(leader, 0)
        os.killpg(leader, signal.SIGKILL)


def _group_knows(group: int, run_file: Path) -> bool:
    """Whether the environment of one of its processes names the note; known only where there is /proc."""
    marker = f"{RUN_FILE_VARIABLE}={run_file}\0".encode()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            its_group = int(stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[2])
            if its_group == group and marker in stat.with_name("environ").read_bytes():
                return True
    return False


def _process(pid: int) -> tuple[int | None, list[str]]:
    """The parent and the command line of a process; (None, []) where there is none."""
    if Path("/proc/self/stat").exists():
        try:
            stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
            command = Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None, []
        return int(stat.rpartition(")")[2].split()[1]), command.split("\0")
    listed = subprocess.run(  # noqa: S603
        ["/bin/ps", "-o", "ppid=,command=", "-p", str(pid)], capture_output=True, text=True, check=False
    ).stdout.split()
    return (int(listed[0]), listed[1:]) if listed else (None, [])
