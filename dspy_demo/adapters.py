"""The formats in which DSPy asks for the fields of a reply: one row of `ADAPTERS` each.

DSPy is imported by what needs it: the settings offer the names, and `--help` should not wait.
"""

from __future__ import annotations

import contextlib
import html
import itertools
import json
import re
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from functools import cache
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from pydantic_core import from_json

if TYPE_CHECKING:
    import dspy

#: Some servers leave what a model thinks in its reply, between these tags.
THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
_THINKING = re.compile(rf"\A\s*{THINK_OPEN}.*?(?:{THINK_CLOSE}\s*|\Z)", re.DOTALL)
#: Stands in a chat's history for what an earlier answer had beside its text, such as its reasoning.
NOT_KEPT = "Not kept in the history of this chat."
#: Whether the model call that an adapter makes is awaited; one that blocks cannot stream from each thread.
awaited: ContextVar[bool] = ContextVar("awaited", default=False)


class Piece(NamedTuple):
    """More text of one field: an increment, never cumulative and never empty."""

    field: str
    text: str


class PrefixParser(Protocol):
    """Finds the output fields in one reply while it arrives; what DSPy reads in the end is the truth.

    `feed` gives the pieces that are certain, `finish` what was held back. However the reply is cut into
    chunks, the pieces join to the same text. Neither raises.
    """

    def feed(self, text: str) -> list[Piece]: ...

    def finish(self) -> list[Piece]: ...


class _Fields:
    """Collects the text of the wanted fields, of each its first occurrence, stripped."""

    def __init__(self, wanted: Sequence[str]) -> None:
        self.open: str | None = None  # the field that is being read, if it is wanted
        self.space: list[str] = []  # that waits for text behind it
        self._wanted = set(wanted)
        self._begun = False
        self._pieces: list[Piece] = []

    def begin(self, name: str | None) -> None:
        """What is written from here on belongs to `name`."""
        self.open = name if name in self._wanted else None
        self._wanted.discard(name or "")
        self._begun = False
        self.space.clear()

    def write(self, text: str) -> None:
        if self.open is None:
            return
        body = text.strip()
        before, _, after = text.partition(body) if body else (text, "", "")
        if self._begun:
            self.space.append(before)
        if body:
            self._pieces.append(Piece(self.open, "".join(self.space) + body))
            self._begun, self.space = True, [after]

    def take(self) -> list[Piece]:
        pieces, self._pieces = self._pieces, []
        joined = itertools.groupby(pieces, key=lambda piece: piece.field)
        return [Piece(field, "".join(piece.text for piece in group)) for field, group in joined]


_HEADER = re.compile(r"\[\[ ## (\w{1,80}) ## \]\]")
_HEADER_START = re.compile(r"\[(\[( ##?)?)?|\[\[ |\[\[ ## (\w{1,80}( (##?( \]?)?)?)?)?")
_LINE_END = re.compile("\r\n|[\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029]")


class ChatParser:
    """Sections below ``[[ ## name ## ]]`` at the start of a line."""

    def __init__(self, fields: Sequence[str]) -> None:
        self._fields = _Fields(fields)
        self._held = ""
        self._line: Literal["start", "header", "text"] = "start"

    def feed(self, text: str) -> list[Piece]:
        text, self._held = self._held + text, ""
        half = "\r" if text.endswith("\r") else ""
        *lines, last = _LINE_END.split(text.removesuffix(half))
        for line in lines:
            self._read(line)
            self._end_line()
        self._read(last, ended=bool(half))
        self._held += half
        return self._fields.take()

    def finish(self) -> list[Piece]:
        self._read(self._held)
        return self._fields.take()

    def _read(self, text: str, *, ended: bool = True) -> None:
        if self._line == "start":
            body = text.lstrip()
            if found := _HEADER.match(body):
                self._fields.begin(found[1])
                self._line, text = "header", body[found.end() :]
            elif not ended and _HEADER_START.fullmatch(body):
                self._held, text = body, text.removesuffix(body)
            elif body:
                self._line = "text"
        self._fields.write(text)

    def _end_line(self) -> None:
        if self._line == "header":  # DSPy strips the rest of this line
            self._fields.space.clear()
        self._fields.write("\n")
        self._line = "start"


_ENTITY = re.compile(r"&(?:#\d{1,7}|#x[0-9a-fA-F]{1,6}|lt|gt|amp|quot|apos);")
_ENTITY_START = re.compile(r"&#?\w{0,7}\Z")


class XMLParser:
    """One element a field. Elements inside a field are shown as they are written."""

    def __init__(self, fields: Sequence[str]) -> None:
        self._fields = _Fields(fields)
        self._held = ""
        self._start = re.compile(rf"<({'|'.join(fields)})\s{{0,9}}>")
        self._tag_max = max(map(len, fields), default=0) + 10

    def feed(self, text: str) -> list[Piece]:
        text, self._held = self._held + text, ""
        at = 0
        while True:
            name = self._fields.open
            found = (re.compile(f"</{name}>") if name else self._start).search(text, at)
            if not found:
                break
            self._write(text[at : found.start()])
            self._fields.begin(None if name else found[1])
            at = found.end()
        sure = self._sure(text, at)
        self._write(text[at:sure])
        self._held = text[sure:]
        return self._fields.take()

    def finish(self) -> list[Piece]:
        if not f"</{self._fields.open}>".startswith(self._held):
            self._write(self._held)
        return self._fields.take()

    def _sure(self, text: str, at: int) -> int:
        """Up to where `text` cannot change its meaning by what follows."""
        tag, name = text.rfind("<", at), self._fields.open
        if tag >= 0 and name is None and len(text) - tag < self._tag_max:
            return tag
        if tag >= 0 and f"</{name}>".startswith(text[tag:]):
            return tag
        entity = _ENTITY_START.search(text, max(at, len(text) - 10))
        return entity.start() if entity else len(text)

    def _write(self, text: str) -> None:
        self._fields.write(_ENTITY.sub(lambda found: html.unescape(found[0]), text))


class JSONParser:
    """One JSON object, with or without text around it. Values other than texts are shown when they are whole.

    To read all that has come at each chunk would cost the square of the reply, so the next look waits until
    there is half a percent more.
    """

    def __init__(self, fields: Sequence[str]) -> None:
        self._fields = fields
        self._parts: list[str] = []
        self._size = self._look_at = 0
        self._shown: dict[str, str] = {}

    def feed(self, text: str) -> list[Piece]:
        self._parts.append(text)
        self._size += len(text)
        if self._size < self._look_at:
            return []
        self._look_at = self._size + self._size // 200
        return self._new(_certain(self._read()))

    def finish(self) -> list[Piece]:
        text = self._read()
        found = _certain(text)
        with contextlib.suppress(ValueError):
            found = found or from_json(text, allow_partial="trailing-strings")
        return self._new(found, last=True)

    def _read(self) -> str:
        text = "".join(self._parts)
        return text[text.find("{") :] if "{" in text else ""

    def _new(self, found: Any, *, last: bool = False) -> list[Piece]:
        pieces = []
        for name in self._fields if isinstance(found, dict) else ():
            value, shown = found.get(name) or "", self._shown.get(name, "")
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            if not last and "\ud800" <= text[-1:] <= "\udbff":
                text = text[:-1]  # the other half of the pair comes with the next chunk
            text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
            if len(text) > len(shown) and text.startswith(shown):
                self._shown[name] = text
                pieces.append(Piece(name, text[len(shown) :]))
        return pieces


def _certain(text: str) -> Any:
    """All of one object that ends inside a text, or all of a complete one; else nothing."""
    decoder = json.JSONDecoder(strict=False)
    with contextlib.suppress(ValueError, RecursionError):
        return decoder.decode(text + '"}')
    with contextlib.suppress(ValueError, RecursionError):
        return decoder.raw_decode(text)[0]
    return {}


class Row(NamedTuple):
    """One format: DSPy's adapter, the parser of a reply that still arrives, the writer of its grammar."""

    dspy_class: str
    parser: Callable[[Sequence[str]], PrefixParser]
    grammar: str


ADAPTERS = {
    "chat": Row("ChatAdapter", ChatParser, "dspy_demo.lm.local.grammar:chat_grammar"),
    "json": Row("JSONAdapter", JSONParser, "dspy_demo.lm.local.grammar:json_grammar"),
    "xml": Row("XMLAdapter", XMLParser, "dspy_demo.lm.local.grammar:xml_grammar"),
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


def reply_grammar(name: str, signature: type[dspy.Signature], max_tokens: int) -> Any:
    """The `dspy_demo.lm.local.grammar.Grammar` of a reply; None where a field's type has none."""
    return resolve_name(ADAPTERS[name].grammar)(signature, max_tokens)


def without_thinking(text: str) -> str:
    """`text` without a block of thinking at its start, which may be cut off."""
    return _THINKING.sub("", text, count=1)


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
        fields = super().parse(signature, without_thinking(completion))  # type: ignore[misc]
        return {name: without_thinking(v) if isinstance(v, str) else v for name, v in fields.items()}
