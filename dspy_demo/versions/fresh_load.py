"""Loads a saved version as a stranger would: in a new process, in an empty folder, with MLflow alone.

    python -P fresh_load.py REPORT.json     # then one line of JSON on standard input says what to load

A script without imports of this app: the version brings the part that it needs. It starts beside `saving`,
so that its imports are done when the files are ready. `OpenedFiles` is used by both.
"""

from __future__ import annotations

import errno
import importlib.util
import json
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any


class OpenedFiles:
    """Which files below some folders this process opens for reading, by an audit hook.

    A hook cannot be removed, so this is for processes that end soon.

    Args:
        folders: Those that count. A relative name is the path below the one that holds the file.
        ignored: Folders that do not count, though they may be below one of the others.
        refuse: Whether such a file is refused as if it did not exist.
    """

    def __init__(self, folders: Sequence[str], ignored: Sequence[str] = (), *, refuse: bool = False) -> None:
        self._folders = [Path(folder).resolve() for folder in folders]
        self._ignored = [Path(folder).resolve() for folder in ignored]
        self._refuse = refuse
        self.active = False
        self.found: dict[str, Path] = {}
        if folders:
            sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event != "open" or not self.active or not isinstance(arguments[0], str | bytes | os.PathLike):
            return
        if int(arguments[2] or 0) & os.O_ACCMODE == os.O_WRONLY:
            return
        path = Path(os.fsdecode(arguments[0]))
        path = path.parent.resolve() / path.name  # a link stays one
        if path.parent.name == "__pycache__":
            path = _source_of(path)
        folder = next((folder for folder in self._folders if path.is_relative_to(folder)), None)
        if folder is None or any(path.is_relative_to(ignored) for ignored in self._ignored):
            return
        name = path.relative_to(folder).as_posix()
        if self._refuse and not is_hidden(name):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        self.found[name] = path


def is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in Path(name).parts)


def failure(error: BaseException, folder: str) -> dict[str, Any]:
    """What went wrong in a load, without the words of the exception, which may hold anything.

    Args:
        folder: Frames of files below it are the program's own.
    """
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).resolve().is_relative_to(Path(folder).resolve())]
    key = str(error.args[0]) if isinstance(error, KeyError) and error.args else ""
    return {
        "kind": type(error).__name__,
        "file": os.fsdecode(error.filename or "") if isinstance(error, FileNotFoundError) else "",
        "module": error.name or "" if isinstance(error, ImportError) else "",
        "variable": key if key.isidentifier() and key.isupper() and key not in os.environ else "",
        "where": f"{Path(own[-1].filename).name}, line {own[-1].lineno}" if own else "",
        "frames": [f"{frame.filename}:{frame.lineno} in {frame.name}" for frame in frames],
    }


def _source_of(path: Path) -> Path:
    try:
        return Path(importlib.util.source_from_cache(str(path)))
    except ValueError:
        return path


def main() -> int:
    """Write ``{"opened": [...], "failure": {...} or null}`` to the file that the first argument names."""
    import dspy  # noqa: F401  what every version imports, while the files are being made
    import mlflow.dspy
    import mlflow.pyfunc

    asked = json.loads(sys.stdin.readline())
    code = str(Path(asked["model"], "code"))
    opened = OpenedFiles([code])
    original = OpenedFiles(asked["folders"], asked["ignored"], refuse=True)
    opened.active = original.active = True
    failed = None
    try:
        mlflow.pyfunc.load_model(asked["model"], suppress_warnings=True)
    except BaseException as error:
        failed = failure(error, code)
    opened.active = original.active = False
    Path(sys.argv[1]).write_text(json.dumps({"opened": sorted(opened.found), "failure": failed}))
    return 0


if __name__ == "__main__":
    exit_code = main()
    os._exit(exit_code)  # taking the libraries apart would take another second
