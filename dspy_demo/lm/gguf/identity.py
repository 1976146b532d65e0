"""Which model file a version was logged with, by names that hold on any machine; and that file again.

The weights never travel: repository, revision and checksum do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from dspy_demo.errors import ModelSetupError
from dspy_demo.lm.local_models import LocalModel, checksum, find, offered
from dspy_demo.settings import Settings


def identified(model: LocalModel) -> LocalModel:
    """The model with its checksum. Where that is not known yet the whole file is read."""
    return replace(model, sha256=checksum(model))


def record(model: LocalModel) -> dict[str, Any]:
    """What a version notes of an `identified` model: everything but where the file lies here."""
    return {name: value for name, value in asdict(model).items() if name != "path"}


def the_same(noted: Mapping[str, Any], settings: Settings) -> LocalModel:
    """The file that a version was logged with, wherever it is on this machine.

    Args:
        noted: What `record` wrote.

    Raises:
        ModelSetupError: It is not here, or another file has its name; the sentence says what to do.
    """
    other = False
    try:
        named = find(f"local/{noted['name']}", settings)
    except ModelSetupError:
        pass
    else:
        if checksum(named) == noted["sha256"]:
            return named
        other = True
    for model, _ in offered(settings):
        if model.sha256 == noted["sha256"]:
            return model
    raise ModelSetupError(missing(noted, other=other))


def missing(noted: Mapping[str, Any], *, other: bool = False) -> str:
    """The sentence for a file that is not here.

    Args:
        other: A file of that name is here, but with other contents.
    """
    name = noted["title"] or noted["name"]
    instead = "another file of that name is" if other else "that file is not"
    source = f"{noted['repo']} at {noted['revision'][:12]}, " if noted["repo"] else ""
    advice = (
        f"Run: python app.py models pull {noted['name']}"
        if noted["repo"] and not noted["name"].endswith(".gguf")
        else "Put it there, or give its folder with --gguf-dir."
    )
    return (
        f"This needs {name} ({source}SHA-256 {noted['sha256'][:12]}), but {instead} on this machine. {advice}"
    )
