r"""Fields out of a reply in `dspy.ChatAdapter`'s format, as it arrives.

Agrees with ``ChatAdapter.parse`` of dspy 3.4.1: the reply is cut by ``str.splitlines`` (which also
cuts at ``\x0b \x0c \x1c-\x1e \x85 \u2028 \u2029``) and joined by ``\n``; a line that starts, after
white space, with ``[[ ## name ## ]]`` begins a section, whatever the name; the rest of that line,
stripped, is the section's first line if there is any; a section is stripped as a whole; the
first section of a name wins, also when it is empty.

One deliberate difference: ``parse`` cuts an *indented* header at the wrong place (it takes the
match's end in the stripped line as an index into the whole line), so that the last characters of
the header become text. Here a header is never text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import Enum, auto

from dspy_demo.streaming.piece import Piece, Sink

_LINE_BREAK = re.compile("[\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029]")
_INDENT = re.compile(r"\s*")
_WORD = re.compile(r"\w*")
_OPEN, _CLOSE = "[[ ## ", " ## ]]"


class _Line(Enum):
    """What is known about the line that is being read."""

    BLANK = auto()  # only white space so far: a header may follow
    OPEN = auto()  # inside "[[ ## "
    NAME = auto()
    CLOSE = auto()  # inside " ## ]]"
    HEADER = auto()  # behind a header
    TEXT = auto()  # no header can come before the next line break


class ChatSplitter:
    """Splits one reply. Holds back a possible header and white space, nothing else.

    Args:
        fields: The signature's output fields.
    """

    def __init__(self, fields: Iterable[str]) -> None:
        self._sink = Sink(fields, strip=True)
        self._line = _Line.BLANK
        self._after_cr = False
        # Parts and not one string: a header's name has no bound, and adding to a string by
        # single characters would be quadratic.
        self._held: list[str] = []
        self._name: list[str] = []
        self._matched = 0  # characters of the current literal

    def feed(self, text: str) -> list[Piece]:
        """The pieces that are certain after `text`."""
        if self._line is _Line.TEXT and not _LINE_BREAK.search(text):
            # Nearly every chunk of nearly every reply.
            return self._sink.send(text)
        if not text:
            return []
        # A CR has ended its line already; the LF of a CR LF that was cut apart must not do so again.
        start = 1 if self._after_cr and text[0] == "\n" else 0
        self._after_cr = text[-1] == "\r"
        if start:
            text = text[1:]
        for part, whole in zip(text.splitlines(), text.splitlines(keepends=True), strict=True):
            self._read(part)
            if len(whole) > len(part):
                self._end_line()
        return self._sink.take()

    def finish(self) -> list[Piece]:
        """What was held back and is text after all. The splitter is used up."""
        self._give_up_header()
        return self._sink.take()

    def _read(self, part: str) -> None:
        """Reads a part of one line, without its end."""
        at = 0
        while at < len(part):
            match self._line:
                case _Line.BLANK:
                    indent = _INDENT.match(part)
                    at = indent.end() if indent else 0
                    self._sink.write(part[:at])
                    if at < len(part):
                        self._line, self._matched = _Line.OPEN, 0
                case _Line.OPEN:
                    at = self._literal(part, at, _OPEN, _Line.NAME)
                case _Line.NAME:
                    at = self._header_name(part, at)
                case _Line.CLOSE:
                    at = self._literal(part, at, _CLOSE, _Line.HEADER)
                case _Line.HEADER | _Line.TEXT:
                    self._sink.write(part[at:])
                    return

    def _literal(self, part: str, at: int, literal: str, then: _Line) -> int:
        text = part[at : at + len(literal) - self._matched]
        if not literal.startswith(text, self._matched):
            self._give_up_header()
            return at
        self._held.append(text)
        self._matched += len(text)
        if self._matched == len(literal):
            self._line, self._matched = then, 0
            if then is _Line.HEADER:
                self._sink.open("".join(self._name))
                self._forget_header()
        return at + len(text)

    def _header_name(self, part: str, at: int) -> int:
        found = _WORD.match(part, at)
        name = found.group() if found else ""
        self._held.append(name)
        self._name.append(name)
        at += len(name)
        if at < len(part):
            if any(self._name):
                self._line = _Line.CLOSE
            else:
                self._give_up_header()
        return at

    def _give_up_header(self) -> None:
        if self._line in (_Line.OPEN, _Line.NAME, _Line.CLOSE):
            self._line = _Line.TEXT
            self._sink.write("".join(self._held))
            self._forget_header()

    def _forget_header(self) -> None:
        self._held.clear()
        self._name.clear()

    def _end_line(self) -> None:
        self._give_up_header()
        if self._line is _Line.HEADER:
            self._sink.drop_space()
        self._sink.write("\n")
        self._line = _Line.BLANK
