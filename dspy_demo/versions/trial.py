"""Makes the files of a version in two processes of its own, which load the program: see `new_process`."""

from __future__ import annotations

import json
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
from dspy_demo.versions import new_process
from dspy_demo.versions.secrets import find_secret, secret_sentence, version_environment

if TYPE_CHECKING:
    from dspy_demo.versions.artifact import Draft

#: Longest time for the new processes to load the program.
LOAD_TIMEOUT_S = 120.0
_PACKAGE = Path(dspy_demo.__path__[0])


class Trials:
    """Runs one trial at a time: each needs two processes and half a gigabyte."""

    def __init__(self, settings: Settings, environ: Mapping[str, str]) -> None:
        self._settings, self._environ = settings, environ
        self._one = threading.Lock()
        self._running: subprocess.Popen[bytes] | None = None
        self._closed = False

    def run(self, draft: Draft, folder: Path, secrets: Mapping[str, str]) -> dict[str, str]:
        """Make the version's files in ``folder/model``, without any of `secrets`; the app's tags for them."""
        draft.write(folder, self._surroundings(folder, draft))
        _refuse_secrets(folder, draft, secrets)
        with self._one:
            self.load_it_anew(folder, self._environment(folder, draft))
        try:
            result: dict[str, Any] = json.loads((folder / "result.json").read_text())
        except OSError as error:
            raise VersionNotLogged("The process that was to load the program ended before it had.") from error
        if result["refused"]:
            raise VersionNotLogged(result["refused"])
        _refuse_secrets(folder / "model", draft, secrets)
        return draft.tags(result["files"])

    def close(self) -> None:
        """End what runs; nothing is started any more."""
        self._closed = True
        if (running := self._running) and running.stdin:
            running.stdin.close()

    def load_it_anew(self, folder: Path, environment: Mapping[str, str]) -> None:
        """Make ``folder/model`` and ``folder/result.json`` of a draft, in new processes."""
        save = [sys.executable, "-P", "-W", "ignore", new_process.__file__, "save", str(folder)]
        process = self._running = subprocess.Popen(  # noqa: S603 - the command is the app's own
            [*warden.prefix(grace_s=1), *save],
            env=environment,
            stdin=subprocess.PIPE,  # closing it ends them
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        assert process.stdin is not None
        try:
            if self._closed:
                process.stdin.close()
            process.wait(LOAD_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            seconds = in_seconds(LOAD_TIMEOUT_S)
            raise VersionNotLogged(f"A new process did not load the program within {seconds}.") from None
        finally:
            self._running = None
            process.stdin.close()
            process.wait()

    def _environment(self, folder: Path, draft: Draft) -> dict[str, str]:
        """What a model server gets, without the login of MLflow."""
        environment = version_environment(self._environ, draft.models, self._settings.serve_env)
        kept = {name: text for name, text in environment.items() if not name.startswith("MLFLOW_TRACKING_")}
        python_path = os.pathsep.join(filter(None, [str(_PACKAGE.parent), kept.get("PYTHONPATH", "")]))
        ours = {"DSPY_CACHEDIR": str(folder / "cache"), "PYTHONDONTWRITEBYTECODE": "1"}
        return kept | ours | {"PYTHONPATH": python_path, "MLFLOW_DISABLE_TELEMETRY": "true"}

    def _surroundings(self, folder: Path, draft: Draft) -> dict[str, Any]:
        """Which folders are not the program's, and a Python path without the program's and this app's."""
        ignored = [folder, sys.prefix, sys.base_prefix, self._settings.data_dir.expanduser(), _PACKAGE]
        known = {str(_PACKAGE.parent), *(str(path) for path in draft.sources.folders)}
        entries = self._environ.get("PYTHONPATH", "").split(os.pathsep)
        others = [entry for entry in entries if entry and os.path.realpath(entry) not in known]
        return {"ignored": [str(path) for path in ignored], "python_path": os.pathsep.join(others)}


def _refuse_secrets(folder: Path, draft: Draft, secrets: Mapping[str, str]) -> None:
    wanted = {**secrets, **draft.removed}
    if found := find_secret(folder, wanted, skipped=folder / "code" / draft.sources.app_name):
        raise VersionNotLogged(secret_sentence(found))
