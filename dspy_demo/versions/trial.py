"""Makes the files of a version in two processes of its own, which load the program: see `new_process`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import dspy_demo
from dspy_demo import warden
from dspy_demo.errors import VersionNotLogged
from dspy_demo.settings import Settings
from dspy_demo.versions import new_process
from dspy_demo.versions.secrets import find_secret, secret_sentence, version_environment

if TYPE_CHECKING:
    from dspy_demo.versions.artifact import Draft

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
        ignored = [folder, sys.prefix, sys.base_prefix, self._settings.data_dir.expanduser(), _PACKAGE]
        draft.write(folder, ignored=[str(path) for path in ignored], python_path=self._python_path(draft))
        _refuse_secrets(folder, draft, secrets)
        with self._one:
            self.load_it_anew(folder, self._environment(folder, draft))
        result = json.loads((folder / "result.json").read_text())
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
        with subprocess.Popen(  # noqa: S603 - the command is the app's own
            [*warden.prefix(grace_s=1), *save],
            env=environment,
            stdin=subprocess.PIPE,  # closing it ends them
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        ) as process:
            self._running = process
            if self._closed:
                self.close()
            try:
                failed = process.wait(LOAD_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                failed = True
        if failed:
            raise VersionNotLogged("A new process did not load the program, or not within two minutes.")

    def _environment(self, folder: Path, draft: Draft) -> dict[str, str]:
        """What a model server gets, without the login of MLflow."""
        environment = version_environment(self._environ, draft.models, self._settings.serve_env)
        kept = {name: text for name, text in environment.items() if not name.startswith("MLFLOW_TRACKING_")}
        python_path = os.pathsep.join(filter(None, [str(_PACKAGE.parent), kept.get("PYTHONPATH", "")]))
        ours = {"DSPY_CACHEDIR": str(folder / "cache"), "PYTHONDONTWRITEBYTECODE": "1"}
        return kept | ours | {"PYTHONPATH": python_path, "MLFLOW_DISABLE_TELEMETRY": "true"}

    def _python_path(self, draft: Draft) -> str:
        """The Python path without the program's folders and this app's."""
        known = {str(_PACKAGE.parent), *(str(path) for path in draft.sources.folders)}
        entries = self._environ.get("PYTHONPATH", "").split(os.pathsep)
        return os.pathsep.join(one for one in entries if one and os.path.realpath(one) not in known)


def _refuse_secrets(folder: Path, draft: Draft, secrets: Mapping[str, str]) -> None:
    wanted = {**secrets, **draft.removed}
    if found := find_secret(folder, wanted, skipped=folder / "code" / draft.sources.app_name):
        raise VersionNotLogged(secret_sentence(found))
