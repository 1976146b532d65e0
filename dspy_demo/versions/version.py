"""A version as the page shows it, and what it takes to make one. Values only."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from dspy_demo.errors import InvalidInput
from dspy_demo.events import LMChoice

CHAMPION = "champion"
MODEL_NAME = "dspy-demo"  # the registered model that a log form and ``app.py log`` start with
METADATA_KEY = "dspy_demo"  # under which an MLmodel's metadata holds what this app notes of a version
#: The form of a version's files: what `METADATA_KEY` holds, and a program with an attribute ``program`` that
#: needs nothing of this app's package. Another form gets the next number.
FORMAT = 1
#: Tags of a version that the app writes; a user's tags have other names.
OWN_TAGS = frozenset(
    {"adapter", "api_base", "app_version", "files", "lm", "max_tokens", "program", "temperature"}
)
_NAME = re.compile(r"\w[\w .\-]{0,119}")
_TAG_KEY = re.compile(r"(?!mlflow\.)\w[\w .-]*(/[\w -][\w .-]*)*")


@dataclass(frozen=True, slots=True)
class LogRequest:
    """What a user asks for with **Log to MLflow**. `lm`'s key does not become part of the version."""

    name: str
    program: str
    lm: LMChoice
    description: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a registered model; of another tool's, `program`, `lm` and `notes` are empty."""

    name: str
    version: int
    uri: str
    aliases: tuple[str, ...] = ()
    description: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)  # the user's, without the app's
    created_at: float = 0.0  # seconds since the epoch
    program: str = ""
    lm: str = ""
    files: tuple[str, ...] = ()  # that travel beside its source, by the path below the program's folder
    reason: str = ""  # why it cannot answer a chat
    same_code: bool = False  # this process has the very code that it was logged with: it can run here
    notes: Mapping[str, Any] = field(default_factory=dict, repr=False)  # its metadata, as this app noted it

    @property
    def servable(self) -> bool:
        return not self.reason

    @property
    def champion(self) -> bool:
        return CHAMPION in self.aliases


def other_format(noted: Mapping[str, Any] | None) -> str:
    """Why this app cannot read a version, in a sentence; empty for a version of another tool (None)."""
    if noted is None or noted.get("format") == FORMAT:
        return ""
    return "It was logged by another version of this app. Log the program again here."


def parse_reference(reference: str) -> tuple[str, str, str]:
    """(name, version, alias), one of the last two empty, or InvalidInput."""
    rest = reference.strip().removeprefix("models:/").strip("/")
    if found := re.fullmatch(r"(.+)/(\d+)|([^/]+)@([^/@]+)", rest):
        return found[1] or found[3], found[2] or "", found[4] or ""
    raise InvalidInput("Name a version as models:/NAME/VERSION or models:/NAME@ALIAS.")


def checked(request: LogRequest) -> LogRequest:
    """The request without space around its texts, or InvalidInput."""
    name = request.name.strip()
    if not _NAME.fullmatch(name):
        raise InvalidInput(
            "The model's name may hold up to 120 letters, digits, spaces, “.”, “-” and “_”, "
            "and starts with a letter or digit, for example dspy-demo."
        )
    description, tags = checked_words(request.description, request.tags)
    return replace(request, name=name, description=description, tags=tags)


def checked_words(description: str, tags: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """A description and the user's tags without space around them, or InvalidInput: MLflow has limits."""
    description, tags = description.strip(), {key.strip(): value.strip() for key, value in tags.items()}
    if len(description) > 5000:
        raise InvalidInput("The description is longer than 5,000 characters. Shorten it.")
    for key, value in tags.items():
        if not _TAG_KEY.fullmatch(key) or key in OWN_TAGS or len(key) > 250 or len(value) > 2000:
            raise InvalidInput(
                f"The tag “{key[:40]}” cannot be stored. Its name may hold letters, digits, spaces, “.”, "
                "“-”, “_” and “/”, but is none of the app or MLflow; a value has up to 2,000 characters."
            )
    return description, tags
