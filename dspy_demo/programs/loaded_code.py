"""The source of the user's own modules as this process loaded it; the files may have changed since."""

from __future__ import annotations

import contextlib
import hashlib
import sys
import sysconfig
from pathlib import Path

import dspy_demo

_INSTALLED = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
_digests: dict[str, str] = {}


def note_loaded_code() -> None:
    """Remember the source of each loaded module of the user's own, soon after the import: the first stays."""
    for module in sys.modules.copy().values():
        file = getattr(module, "__file__", None)
        if isinstance(file, str) and file.endswith(".py") and file not in _digests and is_users(Path(file)):
            with contextlib.suppress(OSError):  # it is gone, or was never a file
                _digests[file] = digest(Path(file))


def loaded_digest(path: Path) -> str:
    """The digest of the source as it was loaded; that of the file as it is now where it was not loaded."""
    return _digests.get(str(path)) or digest(path)


def digest(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def is_users(path: Path) -> bool:
    """Whether a source file or package is the user's own: not installed, not Python's, not this app's."""
    return not any(path.is_relative_to(folder) for folder in (*_INSTALLED, *dspy_demo.__path__))
