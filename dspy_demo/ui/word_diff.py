"""The difference of two answers, word by word, as HTML that says it without colours too."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping
from difflib import SequenceMatcher
from typing import Literal

#: Beyond this a comparison would hold up the page; answers of a chat are far shorter.
WORDS_MAX = 4000
SAME = "The same on both sides, word for word."
TOO_LONG = "The texts are too long to be compared word by word."

Change = Literal["same", "left", "right"]
_WORD = re.compile(r"\s+|\w+|[^\w\s]")


def words_of(text: str) -> list[str]:
    """Words, signs and the spaces between them; joined they are the text again."""
    return _WORD.findall(text)


def word_changes(left: str, right: str) -> Iterator[tuple[Change, str]]:
    """The two texts as one: what both have, what only the left one has, what only the right one has."""
    before, after = words_of(left), words_of(right)
    matcher = SequenceMatcher(None, before, after, autojunk=False)
    for tag, a, b, c, d in matcher.get_opcodes():
        if tag == "equal":
            yield "same", "".join(before[a:b])
            continue
        if b > a:
            yield "left", "".join(before[a:b])
        if d > c:
            yield "right", "".join(after[c:d])


def difference_html(parts: Mapping[str, tuple[str, str]]) -> str:
    """The differences of some texts, each under its title; a text that only one side has is left out."""
    drawn = "".join(_section(title, *texts) for title, texts in parts.items())
    if "<del>" in drawn or "<ins>" in drawn:
        return f'<p class="quiet"><del>only left</del> <ins>only right</ins></p>{drawn}'
    return drawn


def _section(title: str, left: str, right: str) -> str:
    left, right = left.strip(), right.strip()
    if not left or not right:
        return ""
    if left == right:
        body = f'<p class="quiet">{SAME}</p>'
    elif len(words_of(left)) + len(words_of(right)) > WORDS_MAX:
        body = f'<p class="quiet">{TOO_LONG}</p>'
    else:
        changes = "".join(_part(change, text) for change, text in word_changes(left, right))
        body = f'<div class="diff">{changes}</div>'
    return f"<h3>{html.escape(title)}</h3>{body}"


def _part(change: Change, text: str) -> str:
    shown = html.escape(text)
    match change:
        case "same":
            return shown
        case "left":
            return f'<del><span class="sr"> only left: </span>{shown}<span class="sr">, end </span></del>'
        case "right":
            return f'<ins><span class="sr"> only right: </span>{shown}<span class="sr">, end </span></ins>'
