"""Makes a model's text safe to draw as Markdown: what looks like HTML shows as text.

The page's own sanitizer stays on; this comes before it, because a sanitizer drops what it does
not like, and a reader wants to see ``<think>`` when a model writes it. Code must stay as it is:
inside a fence ``&lt;`` would show as these four letters. So there are three kinds of place:

- In a fenced block at the margin: nothing is changed, Markdown escapes it.
- In plain prose: ``<`` becomes ``&lt;``.
- Wherever it may be code or not (inline code, indented blocks, fences inside lists): a word joiner,
  which has no width, goes behind the ``<``. No parser takes that for a tag, and it looks right in
  both readings. The page takes it out again when text is copied.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

#: Has no width and breaks a tag or an image; `dspy_demo/ui/assets/page.js` removes it on copy.
JOINER = "\u2060"

_OPENING_FENCE = re.compile(r"(`{3,})[^`]*$|(~{3,}).*$")
_MAYBE_CODE = re.compile(r"`|~~~|^(?: {4}|\t)", re.MULTILINE)
_TAG_START = re.compile(r"<(?=[A-Za-z/!?])")
_IMAGE_START = re.compile(r"!(?=\[)")
# Gradio draws ```mermaid with a script of its own, from text that nobody checked.
_MERMAID = re.compile(r"^(\s*(?:`{3,}|~{3,}))(?=mermaid)", re.MULTILINE | re.IGNORECASE)
_MATH = re.compile(r"\$\$.+?\$\$|\\\[.+?\\\]|\\\(.+?\\\)", re.DOTALL)


def as_markdown(text: str) -> str:
    """A model's text, ready for a Markdown renderer: formatting works, HTML and images do not."""
    text = _MERMAID.sub(r"\1 ", text)
    if any("```" in math or "~~~" in math for math in _MATH.findall(text)):
        # Math is cut out before Markdown is read, so a fence inside it is none.
        return as_typed(text)
    return "".join(part if is_fence else _prose(part) for is_fence, part in _split_fences(text))


def as_typed(text: str) -> str:
    """A user's text as it was typed; `typed_text` takes it back, for editing."""
    return _IMAGE_START.sub(f"!{JOINER}", _TAG_START.sub(f"<{JOINER}", text))


def typed_text(shown: str) -> str:
    """The inverse of `as_typed`."""
    return shown.replace(JOINER, "")


def _prose(text: str) -> str:
    if _MAYBE_CODE.search(text):
        return as_typed(text)
    return _IMAGE_START.sub(f"!{JOINER}", text.replace("<", "&lt;"))


def _split_fences(text: str) -> Iterator[tuple[bool, str]]:
    """The text in order, as (is a fenced block at the margin, part) pairs; a fence may still be open."""
    if "```" not in text and "~~~" not in text:
        yield False, text
        return
    part: list[str] = []
    fence = ""
    for line in text.splitlines(keepends=True):
        if fence:
            part.append(line)
            if _closes(line, fence):
                yield True, "".join(part)
                part, fence = [], ""
        elif opening := _OPENING_FENCE.match(line.rstrip("\r\n")):
            if part:
                yield False, "".join(part)
            part, fence = [line], opening[1] or opening[2]
        else:
            part.append(line)
    if part:
        yield bool(fence), "".join(part)


def _closes(line: str, fence: str) -> bool:
    mark = line.strip()
    indent = len(line) - len(line.lstrip(" "))
    return indent <= 3 and len(mark) >= len(fence) and set(mark) == {fence[0]}
