"""Whether a version can answer a chat, read off its files without running any of them."""

from __future__ import annotations

import pickletools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

#: Under this key the MLmodel's metadata holds what `loading` and the model server need.
METADATA_KEY = "dspy_demo"
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where it was built


def read_mlmodel(folder: Path) -> dict[str, Any]:
    """The MLmodel file of a version as plain data; empty where it is not one."""
    text = (folder / "MLmodel").read_text(encoding="utf-8")
    data = yaml.load(text, Loader=_Loader)  # noqa: S506 - both are safe loaders
    return data if isinstance(data, dict) else {}


@dataclass(frozen=True, slots=True)
class Contents:
    """What the files of a version say.

    Attributes:
        reason: Why it cannot chat, or empty.
        sources: The digests of its source (`source_code.OwnCode.digests`); empty for other tools' versions.
    """

    reason: str
    sources: Mapping[str, str]


def read_contents(folder: Path) -> Contents:
    """What the version in `folder` says of itself.

    Raises:
        OSError: The files cannot be read.
    """
    mlmodel = read_mlmodel(folder)
    metadata = (mlmodel.get("metadata") or {}).get(METADATA_KEY) or {}
    return Contents(_why_not_servable(folder, mlmodel.get("flavors") or {}), metadata.get("sources") or {})


def _why_not_servable(folder: Path, flavors: Mapping[str, Any]) -> str:
    dspy_flavor = flavors.get("dspy")
    if dspy_flavor is None:
        others = ", ".join(sorted(set(flavors) - {"python_function"})) or "plain Python"
        return f"Not a DSPy program ({others})."
    if dspy_flavor.get("inference_task") != "llm/v1/chat":
        return "Logged without task=“llm/v1/chat”, so it takes no chat messages."
    return _bare_module(folder / str(dspy_flavor.get("model_path", "")))


def _bare_module(path: Path) -> str:
    """MLflow logs a module that takes no messages with a warning only; then it cannot answer (3.17)."""
    if path.suffix != ".pkl" or not path.is_file():
        return ""
    for module, name in islice(pickled_names(path.read_bytes()), 8):
        if module.partition(".")[0] == "dspy" and name[:1].isupper():
            return f"Logged as a bare dspy.{name}, which takes fields but no chat messages."
        if module.partition(".")[0] not in {"mlflow", "copyreg", "builtins"}:
            return ""
    return ""


def pickled_names(data: bytes) -> Iterator[tuple[str, str]]:
    """(module, name) of every class and function that a pickle refers to, in order, without running it."""
    strings: list[str] = []
    memo: list[str | None] = []
    last: str | None = None  # what the previous operation left on the stack, where that is a string
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name == "MEMOIZE":
            memo.append(last)
            continue
        last = None
        if opcode.name == "STACK_GLOBAL":
            yield strings[-2], strings[-1]
        elif opcode.name in {"BINGET", "LONG_BINGET"}:
            last = memo[int(argument or 0)]
        elif "UNICODE" in opcode.name:
            last = argument
        if last is not None:
            strings.append(last)
