"""The source of the user's own modules as this process loaded it; the files may have changed since."""

from __future__ import annotations

import contextlib
import hashlib
import sys
import sysconfig
from functools import cache
from pathlib import Path

import dspy_demo

_digests: dict[str, str] = {}
_seen: set[str] = set()


def note_loaded_code() -> None:
    """Remember the source of each loaded module that is neither installed nor the app's own.

    The first note of a file stays: that is the code which runs here. So call it soon after an import.
    """
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if not isinstance(file, str) or file in _seen:
            continue
        _seen.add(file)
        if file.endswith(".py") and is_users(Path(file)):
            with contextlib.suppress(OSError):  # it is gone, or was never a file
                _digests[file] = digest(Path(file))


def loaded_digest(path: Path) -> str:
    """The digest of the source as it was loaded; that of the file as it is now where it was not loaded.

    Raises:
        OSError: It was not loaded and cannot be read.
    """
    return _digests.get(str(path)) or digest(path)


def digest(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def is_users(path: Path) -> bool:
    """Whether a source file or package is the user's own: not installed, not Python's, not this app's."""
    return not any(path.is_relative_to(folder) for folder in _not_users())


@cache
def _not_users() -> tuple[str, ...]:
    installed = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    return (*installed, *dspy_demo.__path__)
