"""The default answer of the fake: what a DSPy prompt asks for, in the format of its adapter."""

from __future__ import annotations

import itertools
import json
import re
import zlib
from collections.abc import Mapping
from typing import Any

_seeds = itertools.count(1)
_CHAT_FIELD = re.compile(r"`\[\[ ## (\w+) ## \]\]`")
_JSON_FIELD = re.compile(r"(?:order of fields: |then )`(\w+)`")
_XML_FIELD = re.compile(r"`<(\w+)>`")
_TYPE = re.compile(r"^\d+\. `(\w+)` \((.*?)\):", re.MULTILINE)
_MARKER = re.compile(r"\b[A-Za-z]+-\d+\b")


def default_text(
    request: Mapping[str, Any], *, fields: Mapping[str, Any], tokens: int = 0, filler: int = 0
) -> str:
    """A right answer to a DSPy prompt; an echo to any other.

    Each text field says its own name, every marker of the question (a word like ``visitor-123``)
    and a number that no other reply has, so that a test can tell whose text it got.
    """
    messages = request.get("messages") or [{}]
    prompt = _plain(messages[-1].get("content"))
    adapter, names = _requested_fields(prompt)
    question = prompt.partition("Respond with ")[0] if names else prompt
    says = " ".join([*dict.fromkeys(_MARKER.findall(question)), f"reply-{next(_seeds)}"])
    padding = _padding(tokens // max(1, len(names)), filler)
    if not names:
        return f"You said: {question.strip()} ({says}){padding}"
    types = dict(_TYPE.findall("\n".join(_plain(m.get("content")) for m in messages)))
    values = {
        name: fields.get(name, _value(name, types.get(name, "str"), f"The {name} for {says}{padding}"))
        for name in names
    }
    return _WRITERS[adapter](values)


def _requested_fields(prompt: str) -> tuple[str, list[str]]:
    reminder = prompt[prompt.rfind("Respond with ") :] if "Respond with " in prompt else ""
    if names := [name for name in _CHAT_FIELD.findall(reminder) if name != "completed"]:
        return "chat", names
    if reminder.startswith("Respond with a JSON object"):
        return "json", _JSON_FIELD.findall(reminder)
    return "xml", _XML_FIELD.findall(reminder.partition(" Use this nested")[0])


def _plain(content: Any) -> str:
    """The text of a message, whose content may be a list of parts."""
    if isinstance(content, list):
        return "\n".join(part.get("text", "") for part in content)
    return content or ""


def _padding(tokens: int, chars: int) -> str:
    vocabulary = ("alpha", "beta", "gamma", "delta", "omega", "sigma", "kappa", "theta")
    more = [vocabulary[zlib.crc32(b"%d" % i) % len(vocabulary)] for i in range(tokens)]
    text = "".join(" " + word for word in more)
    return text + " filler" * -(-max(0, chars - len(text)) // 7)


def _value(name: str, annotation: str, text: str) -> Any:
    """A value of the type that the prompt names; ReAct's next tool is ``finish``."""
    if options := re.findall(r"'([^']*)'", annotation) if annotation.startswith("Literal") else []:
        return "finish" if "finish" in options else options[0]
    for prefix, value in (
        ("str", text),
        ("int", 4),
        ("float", 0.5),
        ("bool", True),
        ("list[str", [text]),
        ("list", []),
        ("dict", {}),
    ):
        if annotation.startswith(prefix):
            return value
    return text


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _chat(values: Mapping[str, Any]) -> str:
    parts = [f"[[ ## {name} ## ]]\n{_text(value)}\n\n" for name, value in values.items()]
    return "".join(parts) + "[[ ## completed ## ]]\n"


def _json(values: Mapping[str, Any]) -> str:
    return json.dumps(values, ensure_ascii=False, indent=2)


def _xml(values: Mapping[str, Any]) -> str:
    return "\n\n".join(_xml_field(name, value) for name, value in values.items())


def _xml_field(name: str, value: Any) -> str:
    if isinstance(value, list):
        items = "".join(_xml_field("item", item) for item in value)
        return f"<{name}>{items}</{name}>"
    if isinstance(value, Mapping):
        items = "".join(_xml_field(key, item) for key, item in value.items())
        return f"<{name}>{items}</{name}>"
    return f"<{name}>\n{_text(value)}\n</{name}>"


_WRITERS = {"chat": _chat, "json": _json, "xml": _xml}


def words(text: str) -> list[str]:
    """Split into word-sized tokens, losing nothing: each begins with the white space before it."""
    return re.findall(r"\s*\S+|\s+\Z", text)
