"""The day's spending in a small file, so that a restart does not hand out the budget again."""

from __future__ import annotations

import fcntl
import logging
import os
from pathlib import Path

from dspy_demo.guests.spending import Spending

log = logging.getLogger(__name__)

NAME = "guest-spending.json"
#: What a day with the most guests takes is a tenth of it.
FILE_MAX_BYTES = 4_000_000


class SpendingFile:
    """``guest-spending.json`` in the data folder. Its methods block: call them in a thread.

    Several apps may share a folder: each adds what it has not added yet, under a lock, and sees what the
    others spent. The file is replaced in one step, so that a crash leaves the old one or the new one.
    """

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / NAME

    def read(self) -> Spending | None:
        """What is kept; None where there is nothing, or nothing that can be used (which is logged)."""
        try:
            if self._path.stat().st_size > FILE_MAX_BYTES:
                raise ValueError("the file is too large to be ours")
            return Spending.from_json(self._path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            log.warning(
                "the day's spending of guests cannot be read and counts from zero: %s",
                type(error).__name__,
                extra={"path": str(self._path)},
            )
            return None

    def add(self, unsaved: Spending) -> Spending:
        """Add to the file; gives all that it holds now.

        Raises:
            OSError: It cannot be written.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.with_suffix(".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            kept = self.read()
            merged = unsaved if kept is None else kept.merged(unsaved)
            new = self._path.with_suffix(f".{os.getpid()}.new")
            try:
                new.write_bytes(merged.to_json())
                new.replace(self._path)
            finally:
                new.unlink(missing_ok=True)
        return merged
