"""A disk of its own for a test: small, or read-only. Only root may mount one."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


class Disk:
    """A file system in memory at `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def fill(self, free_bytes: int) -> Path:
        """Take all the room but so much; delete the file to have it again."""
        filler = self.path / "filler"
        room = os.statvfs(self.path)
        filler.write_bytes(b"x" * (room.f_bavail * room.f_frsize - free_bytes))
        return filler

    @contextmanager
    def read_only(self, path: Path) -> Iterator[Path]:
        """The same files at `path`, where nothing can be written. (The disk itself has files open.)"""
        path.mkdir()
        subprocess.run(["mount", "--bind", str(self.path), str(path)], check=True)
        try:
            subprocess.run(["mount", "-o", "remount,bind,ro", str(path)], check=True)
            yield path
        finally:
            subprocess.run(["umount", "--lazy", str(path)], check=True)


@contextmanager
def mounted(path: Path, size_mb: int) -> Iterator[Disk]:
    """A new disk, or a skipped test where this process may not mount one."""
    path.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size_mb}m", "dspy-demo-test", str(path)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("only root may mount a disk; the sentences are checked without one too")
    try:
        yield Disk(path)
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)
