"""Writes the output fields in the form that the adapter will parse."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from dspy_demo.lm.rules.prompt import Format

Jsonable = str | int | float | bool | None | list["Jsonable"] | dict[str, "Jsonable"]


def render_outputs(layout: Format, outputs: Mapping[str, Jsonable]) -> str:
    """The whole reply text."""
    if layout == "json":
        return json.dumps(dict(outputs), ensure_ascii=False, indent=2)
    if layout == "xml":
        return "\n\n".join(_element(name, value, spread=True) for name, value in outputs.items())
    fields = (f"[[ ## {name} ## ]]\n{_chat_value(value)}" for name, value in outputs.items())
    return "\n\n".join([*fields, "[[ ## completed ## ]]"])


def _chat_value(value: Jsonable) -> str:
    if isinstance(value, str):
        # A line of the text that looks like a header would start a field of its own.
        return re.sub(r"(?m)^(\s*)(?=\[\[ ## )", r"\1| ", value)
    return (
        "None"
        if value is None
        else str(value)
        if isinstance(value, bool)
        else json.dumps(value, ensure_ascii=False)
    )


def _element(tag: str, value: Jsonable, *, spread: bool = False) -> str:
    if isinstance(value, list):
        return f"<{tag}>{''.join(_element('item', item) for item in value)}</{tag}>"
    if isinstance(value, dict):
        return f"<{tag}>{''.join(_entry(name, item) for name, item in value.items())}</{tag}>"
    text = "" if value is None else _escaped(str(value))
    return f"<{tag}>\n{text}\n</{tag}>" if spread else f"<{tag}>{text}</{tag}>"


def _entry(name: str, value: Jsonable) -> str:
    if name.isidentifier():
        return _element(name, value)
    return f'<entry key="{_escaped(name).replace(chr(34), "&quot;")}">{_escaped(str(value))}</entry>'


def _escaped(text: str) -> str:
    text = re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "", text)
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
