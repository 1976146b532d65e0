r"""Fields out of a reply in `dspy.XMLAdapter`'s format, as it arrives.

``XMLAdapter.parse`` of dspy 3.4.1 reads the whole reply with `xml.etree`, in a root element of its own:
fields are the elements directly below it, entities and CDATA are decoded, comments dropped and line
ends made ``\n``. A `str` field is its stripped text; with elements inside it is its text
up to the first of them followed by ``ET.tostring`` of each, where the text is escaped again.

Three things in well-formed XML can only be known later than they are shown: that elements follow
(then DSPy does not strip the field), and that an element comes twice (DSPy makes a `str` field the
list of both as text; here the first wins). Namespaces are not resolved.

DSPy refuses a reply that is not well-formed; here a ``<`` or ``&`` that opens nothing is text, and
a field ends at its own end tag, whatever was left open inside.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import Enum
from xml.sax.saxutils import escape

from dspy_demo.streaming.piece import Piece, Sink

_NAME = r"[^\W\d][\w.:-]*"
_QUOTED = r"\"[^\"<]*\"|'[^'<]*'"
_START = re.compile(rf"<({_NAME})((?:\s+{_NAME}\s*=\s*(?:{_QUOTED}))*)\s*(/?)>")
_END = re.compile(rf"</({_NAME})\s*>")
_ATTRIBUTE = re.compile(rf"({_NAME})\s*=\s*({_QUOTED})")
# What may still become a tag when more text comes.
_PARTIAL_TAG = re.compile(
    rf"</?|</{_NAME}\s*|<{_NAME}(?:\s+{_NAME}\s*=\s*(?:{_QUOTED}))*"
    rf"(?:\s*/?|\s+{_NAME}(?:\s*(?:=\s*(?:\"[^\"<]*|'[^'<]*)?)?)?)"
)
_ENTITY = re.compile(r"&(?:#x([0-9a-fA-F]+)|#([0-9]+)|([a-z]+));")
_PARTIAL_ENTITY = re.compile(r"&(?:#(?:x[0-9a-fA-F]*|[0-9]*)|[a-z]*)")
_ENTITIES = {"lt": "<", "gt": ">", "amp": "&", "quot": '"', "apos": "'"}
_ESCAPED_IN_ATTRIBUTE = {'"': "&quot;", "\r": "&#13;", "\n": "&#10;", "\t": "&#09;"}
_MARKUP = re.compile("[<&]")
# Longer ones are text: bounds what a stray "<" holds back, and the cost of looking at it again.
_MAX_TAG, _MAX_ENTITY = 1000, 16


class _In(Enum):
    """What the scanner is in."""

    CONTENT = "<"
    CDATA = "]]>"
    COMMENT = "-->"
    INSTRUCTION = "?>"


_OPENERS = {"<![CDATA[": _In.CDATA, "<!--": _In.COMMENT, "<?": _In.INSTRUCTION}


class XMLSplitter:
    """Splits one reply. Holds back what may be a tag or an entity, and white space.

    Args:
        fields: The signature's output fields.
    """

    def __init__(self, fields: Iterable[str]) -> None:
        self._sink = Sink(fields, strip=True)
        self._in = _In.CONTENT
        self._rest = ""
        self._after_cr = False
        self._element: str | None = None  # the open element below the root
        self._depth = 0  # of elements of that name
        self._inner = False  # the field has elements inside
        self._open_tag = False  # "<x" is written; ">" or " />" comes with what follows

    def feed(self, text: str) -> list[Piece]:
        """The pieces that are certain after `text`."""
        if not text:
            return []
        # A CR is "\n" at once; the LF of a CR LF that was cut apart must not be another one.
        start = 1 if self._after_cr and text[0] == "\n" else 0
        self._after_cr = text[-1] == "\r"
        text = text[start:]
        if "\r" in text:
            text = text.replace("\r\n", "\n").replace("\r", "\n")
        self._scan(self._rest + text, final=False)
        return self._sink.take()

    def finish(self) -> list[Piece]:
        """What was held back and is text after all. The splitter is used up."""
        # Of a reply that was cut inside the field's end tag, that tag is not shown.
        if not f"</{self._element}>".startswith(self._rest):
            self._scan(self._rest, final=True)
        return self._sink.take()

    def _scan(self, text: str, *, final: bool) -> None:
        at = 0
        while at < len(text):
            if self._in is _In.CONTENT:
                after = self._content(text, at, final)
            else:
                after = self._until(text, at, self._in.value, final)
            if after is None:
                break
            at = after
        self._rest = text[at:]

    def _until(self, text: str, at: int, closer: str, final: bool) -> int | None:
        found = text.find(closer, at)
        if found >= 0:
            end = found
        else:
            end = len(text) if final else len(text) - _overlap(text, at, closer)
        if self._in is _In.CDATA:
            self._write(text[at:end])
        if found >= 0:
            self._in = _In.CONTENT
            return end + len(closer)
        return end if end > at else None

    def _content(self, text: str, at: int, final: bool) -> int | None:
        found = _MARKUP.search(text, at)
        end = found.start() if found else len(text)
        if end > at:
            self._write(text[at:end])
            return end
        if text[at] == "&":
            return self._entity(text, at, final)
        return self._markup(text, at, final)

    def _entity(self, text: str, at: int, final: bool) -> int | None:
        found = _ENTITY.match(text, at, at + _MAX_ENTITY)
        if found:
            value = _decode(found)
            self._write(found.group() if value is None else value)
            return found.end()
        left = len(text) - at
        if not final and left < _MAX_ENTITY and _PARTIAL_ENTITY.fullmatch(text, at):
            return None
        self._write("&")
        return at + 1

    def _markup(self, text: str, at: int, final: bool) -> int | None:
        if found := _START.match(text, at, at + _MAX_TAG):
            self._start(found[1], found[2], bool(found[3]))
            return found.end()
        if found := _END.match(text, at, at + _MAX_TAG):
            self._end(found[1])
            return found.end()
        for opener, inside in _OPENERS.items():
            if text.startswith(opener, at):
                self._in = inside
                return at + len(opener)
        left = len(text) - at
        if not final and left < _MAX_TAG:
            held = text[at:]
            if _PARTIAL_TAG.fullmatch(held) or any(opener.startswith(held) for opener in _OPENERS):
                return None
        self._write("<")
        return at + 1

    def _start(self, name: str, attributes: str, empty: bool) -> None:
        if self._element is None:
            # XMLAdapter writes a key that is no XML name as <entry key="...">, and reads it so.
            key = dict(_attributes(attributes)).get("key") if name == "entry" else None
            self._sink.open(name if key is None else key)
            self._inner = False
            if empty:
                self._sink.close()
            else:
                self._element, self._depth = name, 1
            return
        if name == self._element and not empty:
            self._depth += 1
        self._close_open_tag()
        self._inner = True
        written = "".join(
            f' {key}="{escape(value, _ESCAPED_IN_ATTRIBUTE)}"' for key, value in _attributes(attributes)
        )
        self._sink.write(f"<{name}{written}")
        if empty:
            self._sink.write(" />")
        else:
            self._open_tag = True

    def _end(self, name: str) -> None:
        if self._element is None:
            return
        if name == self._element:
            self._depth -= 1
            if self._depth == 0:
                self._close_open_tag()
                self._sink.close()
                self._element = None
                return
        if self._open_tag:
            self._open_tag = False
            self._sink.write(" />")
        else:
            self._sink.write(f"</{name}>")

    def _close_open_tag(self) -> None:
        if self._open_tag:
            self._open_tag = False
            self._sink.write(">")

    def _write(self, text: str) -> None:
        if text and self._sink.field is not None:
            self._close_open_tag()
            self._sink.write(escape(text) if self._inner else text)


def _overlap(text: str, at: int, closer: str) -> int:
    """How many characters at the end of `text` may be the start of `closer`."""
    for size in range(min(len(closer) - 1, len(text) - at), 0, -1):
        if text.endswith(closer[:size]):
            return size
    return 0


def _decode(entity: re.Match[str]) -> str | None:
    hexadecimal, decimal, name = entity.groups()
    if name:
        return _ENTITIES.get(name)
    number = int(hexadecimal, 16) if hexadecimal else int(decimal)
    # Not a character in XML 1.0: control characters and surrogates.
    if number > 0x10FFFF or 0xD800 <= number <= 0xDFFF or (number < 0x20 and number not in (9, 10, 13)):
        return None
    return chr(number)


def _attributes(source: str) -> list[tuple[str, str]]:
    return [(found[1], _attribute_value(found[2][1:-1])) for found in _ATTRIBUTE.finditer(source)]


def _attribute_value(raw: str) -> str:
    spaced = raw.replace("\n", " ").replace("\t", " ")
    return _ENTITY.sub(lambda found: _decode(found) or found.group(), spaced)
