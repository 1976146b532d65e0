"""A version as the page shows it, and what it takes to make one. Values only."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from dspy_demo.errors import InvalidInput
from dspy_demo.events import LMChoice

CHAMPION = "champion"
#: The registered model that a log form and ``app.py log`` start with.
MODEL_NAME = "dspy-demo"
#: Under this key an MLmodel's metadata holds what this app notes of a version.
METADATA_KEY = "dspy_demo"
#: The form of a version's files: what `METADATA_KEY` holds, and a program with an attribute ``program`` that
#: needs nothing of this app's package. Another form gets the next number.
FORMAT = 1
#: Tags of a version that the app writes; a user's tags have other names.
OWN_TAGS = frozenset(
    {"adapter", "api_base", "app_version", "files", "lm", "max_tokens", "program", "temperature"}
)
_NAME = re.compile(r"\w[\w .\-]*")
_TAG_KEY = re.compile(r"\w[\w .-]*(/[\w -][\w .-]*)*")


@dataclass(frozen=True, slots=True)
class LogRequest:
    """What a user asks for with **Log to MLflow**: the registered model's name, a program of the registry,
    the language model (its key is not part of a version), and words about it.
    """

    name: str
    program: str
    lm: LMChoice
    description: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a registered model.

    Attributes:
        uri: ``models:/NAME/VERSION``, as every MLflow tool takes it.
        tags: The user's tags, without the app's.
        created_at: Seconds since the epoch.
        program, lm: As it was logged; empty for a version that another tool logged.
        files: What travels with it beside its source, by the path below the program's folder.
        servable: Whether it can answer a chat; `reason` says why not.
        same_code: Whether this process has the very code that it was logged with, so that it can run here.
        notes: What this app noted in its metadata; empty for a version that another tool logged.
    """

    name: str
    version: int
    uri: str
    aliases: tuple[str, ...] = ()
    description: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    created_at: float = 0.0
    program: str = ""
    lm: str = ""
    files: tuple[str, ...] = ()
    servable: bool = True
    reason: str = ""
    same_code: bool = False
    notes: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def champion(self) -> bool:
        return CHAMPION in self.aliases


def other_format(noted: Mapping[str, Any] | None) -> str:
    """Why this app cannot read a version, in a sentence; empty for a version of another tool (None)."""
    if noted is None or noted.get("format") == FORMAT:
        return ""
    if isinstance(noted.get("format"), int):
        return "It was logged by a newer version of this app. Update the app, or log the program again here."
    return "It was logged by an older version of this app. Log the program again."


def parse_reference(reference: str) -> tuple[str, str, str]:
    """(name, version, alias), one of the last two empty, or InvalidInput."""
    rest = reference.strip().removeprefix("models:/").strip("/")
    if found := re.fullmatch(r"(.+)/(\d+)|([^/]+)@([^/@]+)", rest):
        return found[1] or found[3], found[2] or "", found[4] or ""
    raise InvalidInput(
        "Name a version as models:/NAME/VERSION or models:/NAME@ALIAS, for example models:/demo/1."
    )


def checked(request: LogRequest) -> LogRequest:
    """The request without space around its texts, or InvalidInput: MLflow could not store one of them."""
    name = _checked_length("The model's name", request.name, 120)
    if not _NAME.fullmatch(name):
        raise InvalidInput(
            "The model's name may hold letters, digits, spaces, “.”, “-” and “_”, "
            "and starts with a letter or digit, for example dspy-demo."
        )
    description, tags = checked_words(request.description, request.tags)
    return replace(request, name=name, description=description, tags=tags)


def checked_words(description: str, tags: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """A description and the user's tags without space around them, or InvalidInput."""
    found = {}
    for key, value in tags.items():
        shown = f"The tag “{key[:40]}”"
        name = _checked_length(shown, key, 250)
        if not _TAG_KEY.fullmatch(name):
            raise InvalidInput(
                f"{shown} cannot be stored: use letters, digits, spaces, “.”, “-”, “_” and “/” in its name, "
                "as in team=search."
            )
        if name in OWN_TAGS or name.startswith("mlflow."):
            raise InvalidInput(f"{shown} is written by the app or by MLflow. Choose another name.")
        found[name] = _checked_length(f"The value of the tag “{key[:40]}”", value, 2000)
    return _checked_length("The description", description, 5000), found


def _checked_length(what: str, text: str, limit: int) -> str:
    """`text` without space around it, or InvalidInput where it does not fit into MLflow's column."""
    if len(text.strip()) > limit:
        raise InvalidInput(f"{what} is longer than {limit:,} characters. Shorten it.")
    return text.strip()
