"""Tries a draft in processes of their own, which make the files of its version: see `saving`."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dspy_demo
from dspy_demo import warden
from dspy_demo.errors import VersionNotLogged, in_seconds
from dspy_demo.settings import Settings
from dspy_demo.versions.environment import version_environment

if TYPE_CHECKING:
    from dspy_demo.versions.artifact import Draft

log = logging.getLogger(__name__)

#: Ends the process together with this one, however this one ends.
_WARDEN = Path(warden.__file__)
#: Longest time for the new process to load the program.
LOAD_TIMEOUT_S = 120.0
#: Seconds between SIGTERM and SIGKILL.
GRACE_S = 1.0
_PACKAGE = Path(dspy_demo.__path__[0])


class Trials:
    """Runs one trial at a time: each needs two processes and half a gigabyte.

    Args:
        environ: The app's environment. A trial gets what a model server gets, without the login of MLflow.
    """

    def __init__(self, settings: Settings, environ: Mapping[str, str]) -> None:
        self._settings = settings
        self._environ = environ
        self._one = threading.Lock()
        self._running: subprocess.Popen[bytes] | None = None
        self._closed = False

    def prepare(self, draft: Draft, folder: Path) -> None:
        """Write what a trial starts from: the pickled program and its source."""
        draft.write(folder, self._surroundings(folder, draft))

    def run(self, draft: Draft, folder: Path) -> list[str]:
        """Make the version's files in ``folder/model``; the names of those that the program opened.

        Raises:
            VersionNotLogged: A new process cannot load it; the sentence says what is missing.
        """
        with self._one:
            self._wait(folder, draft)
        try:
            result: dict[str, Any] = json.loads((folder / "result.json").read_text())
        except OSError as error:
            raise VersionNotLogged("The process that was to load the program ended before it had.") from error
        if result["refused"]:
            log.warning("a draft did not load in a new process", extra={"frames": result["frames"]})
            raise VersionNotLogged(result["refused"])
        return list(result["files"])

    def close(self) -> None:
        """End what runs; nothing is started any more."""
        self._closed = True
        if (running := self._running) and running.stdin:
            running.stdin.close()

    def _wait(self, folder: Path, draft: Draft) -> None:
        if self._closed:
            raise VersionNotLogged("The app ends, so nothing was logged.")
        warden = [sys.executable, "-I", "-S", str(_WARDEN), f"{GRACE_S:g}"]
        command = [sys.executable, "-P", "-W", "ignore", "-m", "dspy_demo.versions.saving", str(folder)]
        process = self._running = subprocess.Popen(  # noqa: S603 - the command is the app's own
            [*warden, *command],
            env=self._environment(folder, draft),
            stdin=subprocess.PIPE,  # closing it ends them
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            process.wait(LOAD_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise VersionNotLogged(
                f"A new process did not load the program within {in_seconds(LOAD_TIMEOUT_S)}, "
                "so it was not logged."
            ) from None
        finally:
            self._running = None
            assert process.stdin is not None
            process.stdin.close()
            process.wait()

    def _environment(self, folder: Path, draft: Draft) -> dict[str, str]:
        environment = version_environment(self._environ, draft.models, self._settings.serve_env)
        kept = {name: text for name, text in environment.items() if not name.startswith("MLFLOW_TRACKING_")}
        python_path = os.pathsep.join(filter(None, [str(_PACKAGE.parent), kept.get("PYTHONPATH", "")]))
        ours = {"DSPY_CACHEDIR": str(folder / "cache"), "PYTHONDONTWRITEBYTECODE": "1"}
        return kept | ours | {"PYTHONPATH": python_path, "MLFLOW_DISABLE_TELEMETRY": "true"}

    def _surroundings(self, folder: Path, draft: Draft) -> dict[str, Any]:
        """Which folders are not the program's, and the Python path of a process that knows nothing of it."""
        ignored = [folder, sys.prefix, sys.base_prefix, self._settings.data_dir.expanduser(), _PACKAGE]
        entries = self._environ.get("PYTHONPATH", "").split(os.pathsep)
        own = {str(path) for path in draft.own.folders}
        strange = [entry for entry in entries if entry and os.path.realpath(entry) not in own]
        return {"ignored": [str(path) for path in ignored], "python_path": os.pathsep.join(strange)}
