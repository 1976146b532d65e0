"""What a model thinks in its reply between ``<think>`` tags, which some servers do not split off.

Only a block at the very start counts: later in a text the tag is part of what somebody writes about.
"""

from __future__ import annotations

from dspy_demo.adapters import THINK_CLOSE, THINK_OPEN


class ThinkTags:
    """Tells thinking from the rest of a text that arrives in chunks, also where a chunk ends inside a tag."""

    __slots__ = ("_held", "_in_rest", "_opened")

    def __init__(self) -> None:
        self._held = ""
        self._opened = False
        self._in_rest = False

    def feed(self, text: str) -> tuple[str, str]:
        """What is certain after `text`: more thinking, and more of what follows it."""
        if self._in_rest:
            return "", text
        self._held += text
        if not self._opened:
            start = self._held.lstrip()
            if THINK_OPEN.startswith(start[: len(THINK_OPEN)]) and len(start) < len(THINK_OPEN):
                return "", ""
            if not start.startswith(THINK_OPEN):
                return "", self._rest(self._held)
            self._opened, self._held = True, start[len(THINK_OPEN) :]
        thinking, closed, rest = self._held.partition(THINK_CLOSE)
        if closed:
            return thinking, self._rest(rest)
        sure = len(thinking) - _overlap(thinking)
        self._held = thinking[sure:]
        return thinking[:sure], ""

    def finish(self) -> tuple[str, str]:
        """What was held back, at the end of the text."""
        held, self._held = self._held, ""
        return (held, "") if self._opened and not self._in_rest else ("", held)

    def _rest(self, text: str) -> str:
        self._in_rest, self._held = True, ""
        return text


def _overlap(text: str) -> int:
    """How many characters at the end of `text` may be the start of the closing tag."""
    return next((size for size in range(len(THINK_CLOSE) - 1, 0, -1) if text.endswith(THINK_CLOSE[:size])), 0)
