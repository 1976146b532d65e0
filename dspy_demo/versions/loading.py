"""A version back in this process, for the local backend.

Loading a version runs code that is in its files (a pickle, and modules): the page offers it to the owner
only. `mlflow.dspy.load_model` would also set this process's ``dspy.settings`` and fails off the main thread
(mlflow 3.17), so the files are read here.
"""

from __future__ import annotations

import atexit
import inspect
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import dspy

from dspy_demo.errors import DemoError, VersionNotServable
from dspy_demo.events import LMChoice
from dspy_demo.lm.detection import BUILTIN_MODEL
from dspy_demo.programs.chat_program import ChatProgram
from dspy_demo.programs.inspecting import spec_of
from dspy_demo.versions.artifact import METADATA_KEY, in_clean_context, read_pickle
from dspy_demo.versions.flavor import read_mlmodel
from dspy_demo.versions.log import local_folder
from dspy_demo.versions.logged_with import adapter_name, logged_choice
from dspy_demo.versions.tracking import Tracking, tracking_errors
from dspy_demo.versions.version import LoadedVersion, Version


def load_version(tracking: Tracking, version: Version) -> LoadedVersion:
    """Read a version's files and make its program ready to run.

    Raises:
        VersionNotServable: It is no DSPy program, or its code does not import here.
        ProgramLoadError: It has no input that a chat box could fill.
    """
    folder = _folder(tracking, version)
    try:
        mlmodel = read_mlmodel(folder)
    except OSError as error:
        raise VersionNotServable(
            f"The files of {version.name} {version.version} cannot be read from here."
        ) from error
    flavor = (mlmodel.get("flavors") or {}).get("dspy")
    if flavor is None:
        raise VersionNotServable(f"{version.name} {version.version} is not a DSPy program.")
    if flavor.get("code"):
        _make_importable(folder / flavor["code"])
    try:
        program, settings = in_clean_context(_read, folder, str(flavor["model_path"]))
        spec, module = _unwrapped(program, version)
    except DemoError:
        raise
    except Exception as error:
        raise VersionNotServable(
            f"{version.name} {version.version} could not be loaded here ({type(error).__name__}). "
            "It may need another version of DSPy or a package that is not installed."
        ) from error
    metadata = (mlmodel.get("metadata") or {}).get(METADATA_KEY) or {}
    return LoadedVersion(
        replace(spec, adapter=metadata.get("adapter") or adapter_name(settings.get("adapter"))),
        module,
        lm=logged_choice(metadata.get("lm"), settings.get("lm")) or LMChoice(BUILTIN_MODEL),
    )


def _folder(tracking: Tracking, version: Version) -> Path:
    from mlflow.artifacts import download_artifacts

    with tracking_errors():
        location = tracking.client.get_model_version_download_uri(version.name, str(version.version))
        if folder := local_folder(location):
            return folder
        target = tempfile.mkdtemp(prefix="dspy-demo-loaded-")
        # Its code stays importable until the process ends: modules are imported when they are needed.
        atexit.register(shutil.rmtree, target, ignore_errors=True)
        return Path(download_artifacts(artifact_uri=location, dst_path=target, tracking_uri=tracking.uri))


def _make_importable(code: Path) -> None:
    """At the end of the path: what this process has comes first, whatever the version brought along."""
    if str(code) not in sys.path:
        sys.path.append(str(code))


def _read(folder: Path, model_path: str) -> tuple[dspy.Module, Mapping[str, Any]]:
    path = folder / model_path
    if path.suffix == ".pkl":
        wrapper = read_pickle(path)
        return wrapper.model, wrapper.dspy_settings
    program = dspy.load(str(path), allow_pickle=True)  # logged with use_dspy_model_save=True
    return program, dspy.load_settings(str(folder / "data" / "dspy_config.pkl"), allow_pickle=True)


def _unwrapped(program: dspy.Module, version: Version) -> tuple[Any, dspy.Module]:
    if isinstance(program, ChatProgram):
        module = program.program
        return replace(program.spec, build=lambda: module), module
    first_line = (inspect.getdoc(type(program)) or "").strip().partition("\n")[0]
    title = f"{version.name} {version.version}"
    return spec_of(program, name=type(program).__name__, title=title, description=first_line), program
