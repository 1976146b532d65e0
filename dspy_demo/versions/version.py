"""A version as the page shows it, and what it takes to make one. Values only."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from dspy_demo.errors import InvalidInput
from dspy_demo.events import LMChoice

if TYPE_CHECKING:
    import dspy
    from mlflow.entities.model_registry import ModelVersion

    from dspy_demo.programs.spec import ProgramSpec

CHAMPION = "champion"
#: The registered model that a log form and ``app.py log`` start with.
MODEL_NAME = "dspy-demo"
#: Under this key an MLmodel's metadata holds what this app notes of a version.
METADATA_KEY = "dspy_demo"
#: The number of the form of a version's files: what `METADATA_KEY` holds, and a program with an attribute
#: ``program`` that needs nothing of this app's package. Another form gets the next number.
FORMAT = 1
#: Tags of a version that the app writes; a user's tags have other names.
OWN_TAGS = frozenset(
    {"adapter", "api_base", "app_version", "files", "git_commit"}
    | {"lm", "max_tokens", "program", "temperature"}
)

#: What fits into the columns of MLflow's database.
NAME_MAX_CHARS, DESCRIPTION_MAX_CHARS, TAG_KEY_MAX_CHARS, TAG_VALUE_MAX_CHARS = 120, 5000, 250, 2000
_NAME = re.compile(r"\w[\w .\-]*")
_TAG_KEY = re.compile(r"\w[\w .-]*(/[\w -][\w .-]*)*")


@dataclass(frozen=True, slots=True)
class LogRequest:
    """What a user asks for with **Log to MLflow**.

    Attributes:
        name: Name of the registered model; a new one is made, an old one gets one more version.
        tags: The user's own; those in `OWN_TAGS` are the app's.
        program: Name of the program in the registry.
        lm: The language model the version answers with. Its key is not part of it.
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
        program, lm, adapter: As it was logged; empty for a version that another tool logged.
        files: What travels with it beside its source, by the path below the program's folder.
        servable: Whether it can answer a chat; `reason` says why not.
        same_code: Whether this process has the very code that it was logged with, so that it can run here.
        checking: Whether it is being logged: it has no number and no URI yet.
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
    adapter: str = ""
    app_version: str = ""
    git_commit: str = ""
    files: tuple[str, ...] = ()
    servable: bool = True
    reason: str = ""
    same_code: bool = False
    checking: bool = False

    @classmethod
    def checking_of(cls, request: LogRequest, now_s: float) -> Version:
        """What a request will become, while a new process tries it."""
        return cls(
            request.name,
            version=0,
            uri="",
            description=request.description,
            tags=dict(request.tags),
            created_at=now_s,
            program=request.program,
            lm=request.lm.model,
            servable=False,
            reason="Checking: a new process loads it first.",
            checking=True,
        )

    @classmethod
    def of(cls, item: ModelVersion, aliases: tuple[str, ...], *, reason: str, same_code: bool) -> Version:
        """A version of MLflow's registry; the app's own tags tell how it was logged."""
        tags, shown = dict(item.tags), ("program", "lm", "adapter", "app_version", "git_commit")
        users = {name for name in tags if name not in OWN_TAGS and not name.startswith("mlflow.")}
        return cls(
            item.name,
            int(item.version),
            uri_of(item.name, item.version),
            aliases=aliases,
            description=item.description or "",
            tags={name: tags[name] for name in users},
            created_at=item.creation_timestamp / 1000,
            **{name: tags.get(name, "") for name in shown},
            files=tuple(tags.get("files", "").splitlines()),
            servable=not reason,
            reason=reason,
            same_code=same_code,
        )

    @property
    def champion(self) -> bool:
        return CHAMPION in self.aliases


@dataclass(frozen=True, slots=True)
class LoadedVersion:
    """A version in this process, ready for the local backend.

    Attributes:
        spec: Its program, with the adapter it was logged with; `build` gives `module`.
        module: The program itself, without the messages adapter around it.
        lm: The model it was logged with, without a key.
    """

    spec: ProgramSpec
    module: dspy.Module
    lm: LMChoice


def other_format(noted: Mapping[str, Any] | None) -> str:
    """Why this app cannot read a version, in a sentence; empty for a version of another tool (None)."""
    if noted is None or noted.get("format") == FORMAT:
        return ""
    if isinstance(noted.get("format"), int):
        return "It was logged by a newer version of this app. Update the app, or log the program again here."
    return "It was logged by an older version of this app. Log the program again."


def uri_of(name: str, version: int | str) -> str:
    return f"models:/{name}/{version}"


def parse_reference(reference: str) -> tuple[str, str, str]:
    """(name, version, alias); one of the last two is empty.

    Raises:
        InvalidInput: It is neither ``NAME/VERSION`` nor ``NAME@ALIAS``.
    """
    rest = reference.strip().removeprefix("models:/").strip("/")
    if found := re.fullmatch(r"(.+)/(\d+)|([^/]+)@([^/@]+)", rest):
        return found[1] or found[3], found[2] or "", found[4] or ""
    raise InvalidInput(
        "Name a version as models:/NAME/VERSION or models:/NAME@ALIAS, for example models:/demo/1."
    )


def checked(request: LogRequest) -> LogRequest:
    """The request without space around its texts.

    Raises:
        InvalidInput: MLflow could not store one of them, or could not find the version again by its URI.
    """
    name = request.name.strip()
    if not name:
        raise InvalidInput("Give the model a name, for example dspy-demo.")
    _check_length("The model's name", name, NAME_MAX_CHARS)
    if not _NAME.fullmatch(name):
        raise InvalidInput(
            "The model's name may hold letters, digits, spaces, “.”, “-” and “_”, "
            "and starts with a letter or digit."
        )
    description, tags = check_description(request.description), check_tags(request.tags)
    return replace(request, name=name, description=description, tags=tags)


def check_description(text: str) -> str:
    """`text` without space around it.

    Raises:
        InvalidInput: It is too long for MLflow's column.
    """
    return _check_length("The description", text.strip(), DESCRIPTION_MAX_CHARS)


def check_tags(tags: Mapping[str, Any]) -> dict[str, str]:
    """The user's tags without space around keys and values.

    Raises:
        InvalidInput: A key is empty, not one of MLflow's, too long, or the app's own.
    """
    stripped = {str(key).strip(): str(value).strip() for key, value in tags.items()}
    for key, value in stripped.items():
        shown = f"The tag “{key[:40]}”"
        if not _TAG_KEY.fullmatch(key):
            raise InvalidInput(
                f"{shown} cannot be stored: use letters, digits, spaces, “.”, “-”, “_” and “/” in its name, "
                "as in team=search."
            )
        if key in OWN_TAGS or key.startswith("mlflow."):
            raise InvalidInput(f"{shown} is written by the app or by MLflow. Choose another name.")
        _check_length(shown, key, TAG_KEY_MAX_CHARS)
        _check_length(f"{shown} has a value that", value, TAG_VALUE_MAX_CHARS)
    return stripped


def _check_length(what: str, text: str, limit: int) -> str:
    if len(text) > limit:
        raise InvalidInput(f"{what} is longer than {limit:,} characters. Shorten it.")
    return text
