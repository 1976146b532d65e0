"""A version back in this process, for the local backend, where this process has the code it was logged with.

Reading its pickle runs code: the page offers it to the owner only. `mlflow.dspy.load_model` would also set
this process's ``dspy.settings`` and fails off the main thread, so the file is read here.
"""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from dspy_demo.errors import VersionNotServable
from dspy_demo.events import LMChoice
from dspy_demo.lm.choices import DEMO_MODEL
from dspy_demo.programs.chat_program import ChatProgram
from dspy_demo.versions.artifact import in_clean_context
from dspy_demo.versions.flavor import METADATA_KEY, read_mlmodel
from dspy_demo.versions.log import local_folder
from dspy_demo.versions.logged_with import logged_choice
from dspy_demo.versions.tracking import Tracking, tracking_errors
from dspy_demo.versions.version import LoadedVersion, Version


def load_version(tracking: Tracking, version: Version) -> LoadedVersion:
    """Read a version's files and make its program ready to run.

    Raises:
        VersionNotServable: It was logged with other code than this process has, or cannot be read.
    """
    title = f"{version.name} {version.version}"
    if not version.servable:
        raise VersionNotServable(f"{title} cannot be used here. {version.reason}")
    if not version.same_code:
        raise VersionNotServable(f"{title} was logged with other code than runs here. Serve it instead.")
    try:
        with _files(tracking, version) as folder:
            mlmodel = read_mlmodel(folder)
            program = in_clean_context(_program, folder / mlmodel["flavors"]["dspy"]["model_path"])
    except VersionNotServable:
        raise
    except Exception as error:
        raise VersionNotServable(
            f"{title} could not be loaded here ({type(error).__name__}). "
            "It may need another version of DSPy or a package that is not installed."
        ) from error
    noted, module = mlmodel["metadata"][METADATA_KEY], program.program
    spec = replace(program.spec, build=lambda: module, adapter=noted["adapter"])
    return LoadedVersion(spec, module, lm=logged_choice(noted["lm"], None) or LMChoice(DEMO_MODEL))


@contextmanager
def _files(tracking: Tracking, version: Version) -> Iterator[Path]:
    from mlflow.artifacts import download_artifacts

    with tempfile.TemporaryDirectory(prefix="dspy-demo-loaded-") as target, tracking_errors():
        location = tracking.client.get_model_version_download_uri(version.name, str(version.version))
        folder = local_folder(location) or Path(
            download_artifacts(artifact_uri=location, dst_path=target, tracking_uri=tracking.uri)
        )
        yield folder


def _program(path: Path) -> Any:
    """The program in MLflow's wrapper around it."""
    program = pickle.loads(path.read_bytes()).model  # noqa: S301 - the owner asked for it
    if not isinstance(program, ChatProgram):
        raise VersionNotServable("It holds another program than this app logs.")
    return program
