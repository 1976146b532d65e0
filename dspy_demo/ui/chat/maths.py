r"""Where a model's Markdown holds maths, and single dollars as the TeX form that the page draws.

The page draws what stands between ``$$``, ``\[ \]`` and ``\( \)``. Most models write single dollars, which
are money as often, so they become ``\( \)`` only where they look like maths: in one line, no space inside
the dollars, no digit after the closing one, braces in pairs, and not in code.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

#: Code first: what is in it is no maths. A line that is indented by four is code where no list is open.
_OPENING = re.compile(r"`+|^~{3,}|\$\$|\\[\[(]|^(?: {4}| {0,3}\t).*", re.MULTILINE)
_CLOSING = {"$$": "$$", "\\[": "\\]", "\\(": "\\)"}
_LIST_ITEM = re.compile(r"^ {0,3}(?:[-*+]|\d+[.)])[ \t]", re.MULTILINE)
_DOLLARS = re.compile(
    r"(?<![A-Za-z0-9\\$])\$(?=[^\s$])((?:\\.|[^$\n\\`])*?(?:\\.|[^\s$\\`]))\$(?![\dA-Z$({])"
)


class Part(NamedTuple):
    """A stretch of a text that is code or maths."""

    start: int
    end: int
    is_maths: bool


def with_tex_signs(text: str, mark: str) -> str:
    r"""The text with ``\( \)`` between two `mark` in place of the single dollars that are maths."""

    def as_tex(dollars: re.Match[str]) -> str:
        tex = dollars[1]
        braces = re.sub(r"\\.", "", tex)
        paired = braces.count("{") == braces.count("}")
        return f"{mark}\\({tex}\\){mark}" if paired else dollars[0]

    if text.count("$") < 2:
        return text
    parts, at = [], 0
    for start, end, _ in code_and_maths(text):
        parts += [_DOLLARS.sub(as_tex, text[at:start]), text[start:end]]
        at = end
    return "".join([*parts, _DOLLARS.sub(as_tex, text[at:])])


def code_and_maths(text: str) -> Iterator[Part]:
    """The parts of a text that are code or maths, in order."""
    at, lists = 0, _LIST_ITEM.search(text) is not None
    unclosed: set[str] = set()  # so that a text full of openings is not searched anew for each
    for opening in _OPENING.finditer(text):
        left = opening[0]
        if opening.start() < at or left in unclosed or (left[0] in " \t" and lists):
            continue
        end = _end(text, left, opening.end())
        if end is None:
            unclosed.add(left)
            if len(left) < 3:
                continue
            end = len(text)  # a fenced block that is still being written
        at = end
        yield Part(opening.start(), end, left in _CLOSING)


def _end(text: str, left: str, start: int) -> int | None:
    """Where the part that `left` opened ends; None where it does not."""
    if left[0] in " \t":
        return start
    if right := _CLOSING.get(left):
        found = text.find(right, start + 1)
        return None if found < 0 else found + len(right)
    closing = re.compile(rf"(?<!{left[0]}){left}(?!{left[0]})").search(text, start)
    return closing.end() if closing else None
