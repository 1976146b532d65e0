"""Fields out of a reply in `dspy.JSONAdapter`'s format, as it arrives.

``JSONAdapter.parse`` of dspy 3.4.1 gives the whole reply to `json_repair`, which returns what
`json.loads` does for valid JSON. A `str` field keeps its white space. A value that is not a string is
streamed as the JSON text it is, and null as nothing.

Two things in valid JSON can only be known later than they are shown: of a repeated key, and of
several objects, the last one wins in `json_repair`; here the first does. And half a surrogate pair
becomes U+FFFD, for it cannot be written as UTF-8.

Of invalid JSON only what models often write is repaired: prose and fences around the object, line
breaks, quotes and unknown escapes inside strings, a missing or trailing comma, a cut end.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from enum import Enum, auto

from dspy_demo.streaming.piece import Piece, Sink

_SPACE = re.compile(r"\s*")
_QUOTE_OR_ESCAPE = re.compile(r'["\\]')
_BRACKET = re.compile(r'["{}\[\]]')
_BARE_END = re.compile(r"[,}\]\n]")
_PAIR = re.compile(r"\\u(d[89ab]..)\\u(d[c-f]..)", re.IGNORECASE)
_UNICODE = re.compile(r"\\u([0-9a-f]{4})", re.IGNORECASE)
# The start of an escape, or of a surrogate pair, that the next chunk may complete.
_PARTIAL_ESCAPE = re.compile(
    r"\\(u([0-9a-f]{0,3}|d[89ab][0-9a-f]{2}(\\(u(d([c-f][0-9a-f]?)?)?)?)?)?)?", re.IGNORECASE
)
_ESCAPES = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


class _At(Enum):
    """Where in the reply the scanner is."""

    PROSE = auto()
    BRACE = auto()  # behind a "{" that is the object's if a key follows
    KEY = auto()
    COLON = auto()
    VALUE = auto()
    STRING = auto()
    QUOTE = auto()  # behind a quote that may end the string
    BARE = auto()  # a number, true, false, null
    NESTED = auto()  # an array or object
    NESTED_STRING = auto()
    COMMA = auto()
    DONE = auto()


class JSONSplitter:
    """Splits one reply. Holds back an incomplete escape, a quote until it is the string's end, and numbers.

    Args:
        fields: The signature's output fields.
    """

    def __init__(self, fields: Iterable[str]) -> None:
        self._fields = frozenset(fields)
        self._sink = Sink(fields, strip=False)
        self._at = _At.PROSE
        self._rest = ""  # an incomplete escape: at most 11 characters
        # A key, a number, or a quote and what follows it. Parts: none of them has a bound.
        self._held: list[str] = []
        self._depth = 0
        self._found = False  # a field was in this object
        self._steps = {
            _At.PROSE: self._prose,
            _At.BRACE: self._brace,
            _At.KEY: self._key,
            _At.COLON: self._colon,
            _At.VALUE: self._value,
            _At.STRING: self._string,
            _At.QUOTE: self._quote,
            _At.BARE: self._bare,
            _At.NESTED: self._nested,
            _At.NESTED_STRING: self._nested_string,
            _At.COMMA: self._comma,
        }

    def feed(self, text: str) -> list[Piece]:
        """The pieces that are certain after `text`."""
        if self._rest:
            text = self._rest + text
            self._rest = ""
        at, end = 0, len(text)
        while at < end and self._at is not _At.DONE:
            at = self._steps[self._at](text, at)
        return self._sink.take()

    def finish(self) -> list[Piece]:
        """What was held back and is text after all. The splitter is used up."""
        if self._at in (_At.STRING, _At.NESTED_STRING):
            self._sink.write("\ufffd" if _UNICODE.match(self._rest) else self._rest)
            self._rest = ""
        elif self._at is _At.BARE:
            self._end_bare()
        return self._sink.take()

    # Each step reads `text` from `at` and returns how far it came; a step that needs more than there is
    # keeps it in `_held` or `_rest` and returns the end.

    def _prose(self, text: str, at: int) -> int:
        found = text.find("{", at)
        if found < 0:
            return len(text)
        self._at = _At.BRACE
        return found + 1

    def _brace(self, text: str, at: int) -> int:
        at = _skip_space(text, at)
        if at < len(text):
            if text[at] == '"':
                self._at = _At.KEY
                return at + 1
            self._at = _At.PROSE
        return at

    def _key(self, text: str, at: int) -> int:
        found = _QUOTE_OR_ESCAPE.search(text, at)
        if not found:
            self._held.append(text[at:])
            return len(text)
        end = found.start()
        self._held.append(text[at:end])
        if text[end] == "\\":
            if end + 1 == len(text):
                self._rest = "\\"
                return len(text)
            self._held.append(text[end : end + 2])
            return end + 2
        name = _decode_key("".join(self._held))
        self._held.clear()
        self._found = self._found or name in self._fields
        self._sink.open(name)
        self._at = _At.COLON
        return end + 1

    def _colon(self, text: str, at: int) -> int:
        at = _skip_space(text, at)
        if at < len(text):
            self._at = _At.VALUE
            if text[at] == ":":
                at += 1
        return at

    def _value(self, text: str, at: int) -> int:
        at = _skip_space(text, at)
        if at < len(text):
            match text[at]:
                case '"':
                    self._at = _At.STRING
                    at += 1
                case "{" | "[":
                    self._at, self._depth = _At.NESTED, 0
                case _:
                    self._at = _At.BARE
        return at

    def _string(self, text: str, at: int) -> int:
        found = _QUOTE_OR_ESCAPE.search(text, at)
        end = found.start() if found else len(text)
        if end > at:
            self._sink.write(text[at:end])
        if not found:
            return end
        if text[end] == '"':
            self._at = _At.QUOTE
            self._held.append('"')
            return end + 1
        return self._escape(text, end)

    def _escape(self, text: str, at: int) -> int:
        # Every incomplete escape is shorter than 12 characters.
        if len(text) - at < 12 and _PARTIAL_ESCAPE.fullmatch(text, at):
            self._rest = text[at:]
            return len(text)
        if pair := _PAIR.match(text, at):
            high, low = int(pair[1], 16), int(pair[2], 16)
            self._sink.write(chr(0x10000 + ((high & 0x3FF) << 10) + (low & 0x3FF)))
            return pair.end()
        if code := _UNICODE.match(text, at):
            number = int(code[1], 16)
            self._sink.write("\ufffd" if 0xD800 <= number <= 0xDFFF else chr(number))
            return code.end()
        letter = text[at + 1]
        # json_repair keeps the backslash of an escape that JSON does not know, as in LaTeX.
        self._sink.write(_ESCAPES.get(letter, "\\" + letter))
        return at + 2

    def _quote(self, text: str, at: int) -> int:
        """Decides whether a quote ended the string: only if the object can go on from there."""
        start, at = at, _skip_space(text, at)
        self._held.append(text[start:at])
        if at == len(text):
            return at
        after_comma = "," in self._held
        match text[at]:
            case "}":
                ended = True
            case '"':
                ended = after_comma or any("\n" in space for space in self._held)
            case "," if not after_comma:
                self._held.append(",")
                return at + 1
            case _:
                ended = False
        if ended:
            self._end_value()
        else:
            self._sink.write("".join(self._held))
            self._at = _At.STRING
        self._held.clear()
        return at

    def _bare(self, text: str, at: int) -> int:
        found = _BARE_END.search(text, at)
        end = found.start() if found else len(text)
        self._held.append(text[at:end])
        if found:
            self._end_bare()
        return end

    def _end_bare(self) -> None:
        value = "".join(self._held).strip()
        self._held.clear()
        if value != "null":
            self._sink.write(value)
        self._end_value()

    def _nested(self, text: str, at: int) -> int:
        found = _BRACKET.search(text, at)
        end = found.end() if found else len(text)
        self._sink.write(text[at:end])
        if found:
            match found.group():
                case '"':
                    self._at = _At.NESTED_STRING
                case "{" | "[":
                    self._depth += 1
                case _:
                    self._depth -= 1
                    if self._depth == 0:
                        self._end_value()
        return end

    def _nested_string(self, text: str, at: int) -> int:
        found = _QUOTE_OR_ESCAPE.search(text, at)
        end = found.end() if found else len(text)
        if found and found.group() == "\\":
            if end == len(text):
                self._sink.write(text[at : end - 1])
                self._rest = "\\"
                return end
            end += 1
        elif found:
            self._at = _At.NESTED
        self._sink.write(text[at:end])
        return end

    def _end_value(self) -> None:
        self._sink.close()
        self._at = _At.COMMA

    def _comma(self, text: str, at: int) -> int:
        at = _skip_space(text, at)
        if at == len(text):
            return at
        if text[at] == '"':
            self._at = _At.KEY
        elif text[at] == "}":
            # An object without any field was an example in the prose.
            self._at = _At.DONE if self._found else _At.PROSE
        return at + 1


def _skip_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _decode_key(raw: str) -> str:
    try:
        return str(json.loads(f'"{raw}"', strict=False))
    except ValueError:
        return raw
