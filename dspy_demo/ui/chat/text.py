"""Text of models and visitors, ready for Markdown: formatting works, HTML and images do not.

The page's own sanitizer stays on, but it lets images, forms, styles and media through, and it drops what it
does not like, while a reader wants to see ``<think>`` when a model writes it. So no place that a Markdown
parser takes for a tag, an image or an unsafe link reaches it: a word joiner, which has no width, breaks it,
in code as well as in prose, since telling the two apart is what parsers disagree about. The page takes the
joiner out again when text is copied.

An image would tell its host, and with its address whatever a tricked model puts there, that somebody reads
here. It becomes a link, which only a click follows. A link to anything but ``http:``, ``https:`` or
``mailto:`` shows as it was written.
"""

from __future__ import annotations

import html
import json
import re
from collections import deque
from typing import Any

from dspy_demo.ui.chat.maths import code_and_maths, with_tex_signs

#: Has no width and breaks a tag, a link or an image; `assets/page.js` removes it on copy.
JOINER = "\u2060"
#: The same for maths, where the joiner would be drawn as a missing sign.
TEX_GAP = "{\\relax}"
#: Stands for the ``!`` of an image outside code; `page.js` knows it too, for a copied answer.
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


def as_markdown(text: str) -> str:
    """A model's text, in which formatting and maths work."""
    text = with_tex_signs(text.replace("\r\n", "\n").replace("\r", "\n"), JOINER)
    if not _BREAK.search(text):
        return text
    parts = deque(code_and_maths(text))

    def break_it(place: re.Match[str]) -> str:
        while parts and parts[0].end <= place.start():
            parts.popleft()
        part = parts[0] if parts and parts[0].start <= place.start() else None
        if part is None and place[0] == "!":
            return IMAGE
        return place[0] + (TEX_GAP if part and part.is_maths else JOINER)

    return _BREAK.sub(break_it, text)


def as_typed(text: str) -> str:
    """A visitor's text as it was typed; `typed_text` takes it back, for editing."""
    return _BREAK.sub(rf"\g<0>{JOINER}", text)


def typed_text(shown: str) -> str:
    """The inverse of `as_typed`."""
    return shown.replace(JOINER, "")


def as_label(text: str) -> str:
    """One line of Markdown in which no sign is formatting."""
    return " ".join(text.split()).translate(_MARKDOWN_SIGNS)


def as_html(text: str) -> str:
    """Text inside HTML of ours that stands in a Markdown message.

    There an empty line ends the HTML, and maths is cut out of it, so signs of both are written as entities.
    """
    return html.escape(text).translate(_READ_BEFORE_HTML)


def in_words(name: str) -> str:
    """A field or step as a reader would write it: ``final_answer`` is “Final answer”."""
    words = name.replace("_", " ").strip()
    return words[:1].upper() + words[1:]


def plain_text(value: Any) -> str:
    """Text as it is, anything else as JSON."""
    if value is None:
        return ""
    return value if isinstance(value, str) else as_json(value)


def as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2, default=str)
