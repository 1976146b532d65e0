r"""Text of models and visitors, ready for Markdown: formatting and maths work, HTML and images do not.

Gradio's sanitizer lets images, forms, styles and media through, and drops ``<think>``, which a reader wants
to see. So a word joiner, which has no width, breaks whatever a Markdown parser takes for a tag, an image or
an unsafe link, in code too, since parsers disagree about what is code. The page takes it out of what is
copied. An image would tell its host that somebody reads here: it becomes a link.

Single dollars are money as often as maths. They become ``\( \)``, which the page draws, where they look like
maths: in one line, no space inside, no digit after the closing one, braces in pairs, and not in code.
"""

import html
import json
import re
from collections.abc import Iterator
from typing import Any

#: Has no width and breaks a tag, a link or an image; `assets/page.js` removes it on copy.
JOINER = "\u2060"
#: The same for maths, where the joiner would be drawn as a missing sign.
TEX_GAP = "{\\relax}"
#: Stands for the ``!`` of an image outside code; `page.js` knows it too.
IMAGE = f"{JOINER}Image: {JOINER}"

_SAFE = r"(?:https?://|mailto:)"
_BREAK = re.compile(
    # What may begin a tag, but for an address in angle brackets.
    rf"<(?=[A-Za-z/!?])(?!{_SAFE}[^\s<>\"'`\\$]*>)"
    # An image; and what makes a link of an unsafe address: `](x`, `]: x`, `ftp://x`.
    rf"|!(?=\[)|\](?=\((?!\s*(?i:{_SAFE}))|:(?!\s*(?i:{_SAFE})))|[fF][tT][pP](?=://)"
    # The page would draw it with a script that fetches images.
    r"|(?:```|~~~)[ \t]*(?=(?i:mermaid))"
)
#: As entities, signs are never formatting, not even maths, for which a back-slash is one.
_MARKDOWN_SIGNS = {ord(sign): f"&#{ord(sign)};" for sign in "\\`*_[]#~$|<>!&:@"}
_READ_BEFORE_HTML = str.maketrans({"\n": "&#10;", "\r": "&#13;", "$": "&#36;", "\\": "&#92;"})

#: Code first: what is in it is no maths.
_OPENING = re.compile(r"`+|^~{3,}|\$\$|\\[\[(]", re.MULTILINE)
_CLOSING = {"$$": "$$", "\\[": "\\]", "\\(": "\\)"}
_DOLLARS = re.compile(
    r"(?<![A-Za-z0-9\\$])\$(?=[^\s$])((?:\\.|[^$\n\\`])*?(?:\\.|[^\s$\\`]))\$(?![\dA-Z$({])"
)


def as_markdown(text: str) -> str:
    """A model's text, in which formatting and maths work."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    # Each redraw comes here with all that was written so far, which mostly holds neither.
    text = _with_tex_signs(text) if "$" in text else text
    if not _BREAK.search(text):
        return text
    parts = list(_code_and_maths(text))[::-1]

    def break_it(place: re.Match[str]) -> str:
        while parts and parts[-1][1] <= place.start():
            parts.pop()
        inside = bool(parts) and parts[-1][0] <= place.start()
        if place[0] == "!" and not inside:
            return IMAGE
        return place[0] + (TEX_GAP if inside and parts[-1][2] else JOINER)

    return _BREAK.sub(break_it, text)


def as_typed(text: str) -> str:
    """A visitor's text as it was typed; without the joiners it can be edited."""
    return _BREAK.sub(rf"\g<0>{JOINER}", text)


def as_label(text: str) -> str:
    """One line of Markdown in which no sign is formatting."""
    return " ".join(text.split()).translate(_MARKDOWN_SIGNS)


def as_html(text: str) -> str:
    """Text inside HTML of ours in a Markdown message, where an empty line ends HTML and maths is cut out."""
    return html.escape(text).translate(_READ_BEFORE_HTML)


def in_words(name: str) -> str:
    """A field or step as a reader would write it: ``final_answer`` is “Final answer”."""
    words = name.replace("_", " ").strip()
    return words[:1].upper() + words[1:]


def plain_text(value: Any) -> str:
    """Text as it is, anything else as JSON."""
    return "" if value is None else value if isinstance(value, str) else as_json(value)


def as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2, default=str)


def _with_tex_signs(text: str) -> str:
    def as_tex(dollars: re.Match[str]) -> str:
        braces = re.sub(r"\\.", "", dollars[1])
        paired = braces.count("{") == braces.count("}")
        return f"{JOINER}\\({dollars[1]}\\){JOINER}" if paired else dollars[0]

    parts, at = [], 0
    for start, end, _ in _code_and_maths(text):
        parts += [_DOLLARS.sub(as_tex, text[at:start]), text[start:end]]
        at = end
    return "".join([*parts, _DOLLARS.sub(as_tex, text[at:])])


def _code_and_maths(text: str) -> Iterator[tuple[int, int, bool]]:
    """The parts of a text that are code or maths, in order: start, end, whether it is maths."""
    at = 0
    unclosed: set[str] = set()  # so that a text full of openings is not searched anew for each
    for opening in _OPENING.finditer(text):
        left = opening[0]
        if opening.start() < at or left in unclosed:
            continue
        maths = left in _CLOSING
        right = re.escape(_CLOSING[left]) if maths else rf"(?<!{left[0]}){left}(?!{left[0]})"
        closing = re.compile(right).search(text, opening.end() + maths)
        if closing is None:
            unclosed.add(left)
            if len(left) < 3:
                continue
        at = closing.end() if closing else len(text)  # a fenced block that is still being written
        yield opening.start(), at, maths
