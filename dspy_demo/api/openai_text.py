"""One text for what a program answers in fields: the content and the reasoning of a chat message."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from dspy_demo.api.encoding import encode
from dspy_demo.programs.spec import REASONING_FIELDS, TRACE_FIELDS, ProgramSpec


def answer_fields(spec: ProgramSpec, outputs: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a prediction that are its answer, in the program's order."""
    known = {name: outputs[name] for name in spec.outputs if name in outputs}
    return known or {
        name: value for name, value in outputs.items() if name not in REASONING_FIELDS | TRACE_FIELDS
    }


def reasoning_of(outputs: Mapping[str, Any]) -> str:
    """The reasoning of a prediction, or empty."""
    texts = (text for name, text in outputs.items() if name in REASONING_FIELDS)
    return next((text for text in texts if isinstance(text, str) and text), "")


def rendered(fields: Mapping[str, Any], *, named: bool | None = None) -> str:
    """One field as its value, several as paragraphs ``name: value``; `named` says which by force."""
    if named is None:
        named = len(fields) > 1
    texts = {name: value_text(value) for name, value in fields.items()}
    return "\n\n".join(f"{name}: {text}" if named else text for name, text in texts.items())


def value_text(value: Any) -> str:
    """Text as it is, anything else as JSON."""
    return value if isinstance(value, str) else encode(value).decode()


def says_the_same(streamed: str, value: Any) -> bool:
    """Whether the text that a model wrote for a field is its final value, apart from the spelling.

    A model writes ``[1, 2]``, ``True`` or ``"4"`` where the value's JSON is ``[1,2]``, ``true`` and ``4``.
    """
    streamed = streamed.strip()
    if isinstance(value, str):
        return streamed == value.strip()
    if streamed in (str(value), value_text(value)):
        return True
    try:
        return bool(orjson.loads(streamed) == value)
    except orjson.JSONDecodeError:
        return False
