"""The formats in which DSPy asks for the fields of a reply: one row of `ADAPTERS` each.

DSPy is imported by what needs it: the settings offer the names, and `--help` should not wait.
"""

from __future__ import annotations

import contextlib
import html
import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic_core import from_json

if TYPE_CHECKING:
    import dspy

#: Some servers leave what a model thinks in its reply, between these tags.
THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
#: Stands in a chat's history for what an earlier answer had beside its text, such as its reasoning.
NOT_KEPT = "Not kept in the history of this chat."
#: Whether the model call that an adapter makes is awaited; one that blocks cannot stream from each thread.
awaited: ContextVar[bool] = ContextVar("awaited", default=False)


class Piece(NamedTuple):
    """More text of one field: an increment, never cumulative and never empty."""

    field: str
    text: str


#: Reads the fields of a reply as far as they are certain; with True of one that has ended.
Reading = Callable[[str, Sequence[str], bool], Mapping[str, str]]


class Parser:
    """Finds the output fields in one reply while it arrives; what DSPy reads in the end is the truth.

    However the reply is cut into chunks, the pieces join to the same text. To read all that has come at each
    chunk would cost the square of the reply, so the next look waits until there is half a percent more.
    """

    def __init__(self, fields: Sequence[str], reading: Reading) -> None:
        self._fields, self._reading = fields, reading
        self._parts: list[str] = []
        self._size = self._look_at = 0
        self.shown: dict[str, str] = {}  #: The text of each field so far.

    def feed(self, text: str) -> list[Piece]:
        """The pieces that are certain after `text`."""
        self._parts.append(text)
        self._size += len(text)
        if self._size < self._look_at:
            return []
        self._look_at = self._size + self._size // 200
        return self._new(ended=False)

    def finish(self) -> list[Piece]:
        """What was held back."""
        return self._new(ended=True)

    def _new(self, *, ended: bool) -> list[Piece]:
        pieces = []
        for name, text in self._reading("".join(self._parts), self._fields, ended).items():
            shown = self.shown.get(name, "")
            if len(text) > len(shown) and text.startswith(shown):
                self.shown[name] = text
                pieces.append(Piece(name, text[len(shown) :]))
        return pieces


_HEADER = re.compile(r"\[\[ ## (\w+) ## \]\]")
_HEADER_START = re.compile(r"\[(\[( ##?)?)?|\[\[ |\[\[ ## (\w{1,80}( (##?( \]?)?)?)?)?")


def chat_fields(text: str, fields: Sequence[str], ended: bool) -> dict[str, str]:
    """Sections below ``[[ ## name ## ]]`` at the start of a line, of each field the first one."""
    found: dict[str, list[str]] = {}
    section: list[str] = []
    *lines, last = f"{text}|".splitlines()
    if ended or not _HEADER_START.fullmatch(last[:-1].lstrip()):
        lines.append(last[:-1])
    for line in lines:
        header = _HEADER.match(line.lstrip())
        if header is None:
            section.append(line)
            continue
        section = [line.lstrip()[header.end() :].strip()]
        if header[1] in fields:
            found.setdefault(header[1], section)
    return {name: "\n".join(section).strip() for name, section in found.items()}


_ENTITY = re.compile(r"&(?:#\d{1,7}|#x[0-9a-fA-F]{1,6}|lt|gt|amp|quot|apos);")
_ENTITY_START = re.compile(r"&#?\w{0,7}\Z")


def xml_fields(text: str, fields: Sequence[str], ended: bool) -> dict[str, str]:
    """One element a field. Elements inside a field are shown as they are written."""
    found: dict[str, str] = {}
    start, at = re.compile(rf"<({'|'.join(fields)})\s{{0,9}}>"), 0
    while at >= 0 and (opened := start.search(text, at)):
        name, close = opened[1], f"</{opened[1]}>"
        end = text.find(close, opened.end())
        content = text[opened.end() : end] if end >= 0 else text[opened.end() :]
        if end < 0:
            tail = content[content.rfind("<") :]
            content = content.removesuffix(tail) if "<" in tail and close.startswith(tail) else content
            content = content if ended else _ENTITY_START.sub("", content)
        found.setdefault(name, _ENTITY.sub(lambda entity: html.unescape(entity[0]), content).strip())
        at = end
    return found


def json_fields(text: str, fields: Sequence[str], ended: bool) -> dict[str, str]:
    """One JSON object, with or without text around it. Values other than texts come when they are whole."""
    text = text[text.find("{") :] if "{" in text else ""
    found = _object(text)
    with contextlib.suppress(ValueError):
        found = found or (from_json(text, allow_partial="trailing-strings") if ended else {})
    texts = {}
    for name in fields if isinstance(found, dict) else ():
        value = found.get(name) or ""
        value = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        if not ended and "\ud800" <= value[-1:] <= "\udbff":
            value = value[:-1]  # the other half of the pair comes with the next chunk
        texts[name] = value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return texts


def _object(text: str) -> Any:
    """All of an object that ends inside a text, or all of a complete one; else nothing."""
    decoder = json.JSONDecoder(strict=False)
    with contextlib.suppress(ValueError, RecursionError):
        return decoder.decode(text + '"}')
    with contextlib.suppress(ValueError, RecursionError):
        return decoder.raw_decode(text)[0]
    return {}


class Row(NamedTuple):
    """One format: DSPy's adapter, and what reads a reply that still arrives."""

    dspy_class: str
    reading: Reading


ADAPTERS = {
    "chat": Row("ChatAdapter", chat_fields),
    "json": Row("JSONAdapter", json_fields),
    "xml": Row("XMLAdapter", xml_fields),
}


def adapter_for(name: str) -> dspy.Adapter:
    # Asked again in JSON, a model would write a second reply behind the one that people have seen.
    options = {} if name == "json" else {"use_json_adapter_fallback": False}
    return _adapter_class(name)(**options)


def adapter_name(adapter: object) -> str | None:
    """The name of an adapter's format, or None where it is unknown."""
    names = {row.dspy_class: name for name, row in ADAPTERS.items()}
    bases = [base.__name__ for base in type(adapter).__mro__ if base.__module__.startswith("dspy.")]
    return next((names[base] for base in bases if base in names), None)


def split_thinking(text: str, ended: bool) -> tuple[str, str]:
    """What is certain of a block of thinking at the start of `text`, and of the text after it.

    Only there: later the tag is part of what somebody writes about.
    """
    start = text.lstrip()
    if not start.startswith(THINK_OPEN):
        return "", "" if THINK_OPEN.startswith(start) and not ended else text
    thinking, closed, rest = start.removeprefix(THINK_OPEN).partition(THINK_CLOSE)
    tail = thinking[thinking.rfind("<") :] if "<" in thinking else "-"
    if not closed and not ended and THINK_CLOSE.startswith(tail):
        thinking = thinking.removesuffix(tail)
    return thinking, rest.lstrip()


@cache
def _adapter_class(name: str) -> Any:
    import dspy

    base = getattr(dspy, ADAPTERS[name].dspy_class)
    return type(base.__name__, (_Conversation, base), {"format_name": name})


class _Conversation:
    """What DSPy's adapters lack for a chat with any model.

    They take thinking between tags for a part of the reply. And of an earlier turn, whose answer alone is
    kept, they write the other output fields as ``None``, and models then do the same.
    """

    format_name: str

    def __reduce__(self) -> Any:
        return adapter_for, (self.format_name,)

    async def acall(self, *args: Any, **kwargs: Any) -> Any:
        token = awaited.set(True)
        try:
            return await super().acall(*args, **kwargs)  # type: ignore[misc]
        finally:
            awaited.reset(token)

    def format_conversation_history(self, signature: Any, history_field_name: str, inputs: Any) -> Any:
        import dspy

        if (history := inputs.get(history_field_name)) is not None:
            missing = dict.fromkeys(signature.output_fields, NOT_KEPT)
            turns = [
                turn if dspy.ToolCalls in map(type, turn.values()) else {**missing, **turn}
                for turn in history.messages
            ]
            inputs[history_field_name] = dspy.History(messages=turns)
        return super().format_conversation_history(signature, history_field_name, inputs)  # type: ignore[misc]

    def parse(self, signature: Any, completion: str) -> dict[str, Any]:
        fields = super().parse(signature, split_thinking(completion, True)[1])  # type: ignore[misc]
        return {name: split_thinking(v, True)[1] if isinstance(v, str) else v for name, v in fields.items()}
