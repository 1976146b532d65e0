"""Makes text of others safe to draw: what looks like HTML shows as text, and nothing is fetched.

The page's own sanitizer stays on, but it lets images, forms, styles and media through (amuchina, gradio
6.31), and it drops what it does not like, while a reader wants to see ``<think>`` when a model writes it.
So nothing that a Markdown parser takes for a tag reaches it:

- In a fenced block at the margin nothing is changed, Markdown escapes it.
- In plain prose ``<`` becomes ``&lt;``.
- Wherever it may be code or not (inline code, indented blocks, fences inside lists, and all of a text whose
  fences could be read in two ways, or that holds maths): a word joiner, which has no width, goes behind the
  ``<``, or an empty TeX group inside maths. No parser takes that for a tag, and it looks right in both
  readings. The page takes it out again when text is copied.

An image would tell its host that, and with its address what, somebody reads here: a prompt that the model
was tricked with could send the whole chat away in it. It is drawn as a link, which only a click follows. A
link to anything but ``http:``, ``https:`` or ``mailto:`` shows as it was written.
"""

from __future__ import annotations

import html
import re

from dspy_demo.ui.chat.maths import spans, with_tex_signs

#: Has no width and breaks a tag, a link or an image; `dspy_demo/ui/assets/page.js` removes it on copy.
JOINER = "\u2060"
#: Breaks them inside maths, where it draws nothing, while KaTeX has no shape for the joiner.
TEX_GAP = "{\\relax}"
#: What an image is drawn as; `page.js` knows it too, so that a copied answer has its image again.
IMAGE = f"{JOINER}[{JOINER}Image: "

_MAYBE_CODE = re.compile(r"`|~~~|^(?: {4}| {0,3}\t)", re.MULTILINE)
_AUTOLINK = re.compile(r"<((?:https?://|mailto:)[^\s<>]+)>(?![^\s.,;:!?)])")

_SAFE = r"\s*(?i:https?://|mailto:)"
#: The places where a link has an address that is none of the safe ones: ``](x``, ``]: x`` and ``ftp://``.
_UNSAFE_LINK = re.compile(rf"\](?=\((?!{_SAFE})|:(?!{_SAFE}))|[fF][tT][pP](?=://)")
# Gradio draws ```mermaid with a script that fetches images, wherever the fence stands (6.31).
_MERMAID = re.compile(r"(?:```|~~~)[ \t]*(?=(?i:mermaid))")
#: Where a tag, an image, an unsafe link or a Mermaid drawing has to be broken.
_BREAK = re.compile(rf"<(?=[A-Za-z/!?])|!(?=\[)|{_UNSAFE_LINK.pattern}|{_MERMAID.pattern}")
#: What maths begins with where it is drawn.
_TEX = ("$$", "\\(", "\\[")

#: Gradio cuts math out before Markdown is read, one kind after the other in this order (6.31).
_MATH = [re.compile(pattern, re.DOTALL) for pattern in (r"\$\$.+?\$\$", r"\\\[.+?\\\]", r"\\\(.+?\\\)")]
_OPENING_FENCE = re.compile(r"(`{3,})[^`]*$|(~{3,})[^`~]*$")
_LINE = re.compile(r"[^\n]*\n|[^\n]+")  # not `splitlines`, which ends lines at signs that Markdown does not
_CLOSING_FENCE = re.compile(r" {0,3}([`~]{3,}) *$")

#: As entities, signs are never formatting, not even math, for which a back-slash is one.
_MARKDOWN_SIGNS = {ord(sign): f"&#{ord(sign)};" for sign in "\\`*_[]#~$|<>!&:@"}
_READ_BEFORE_HTML = str.maketrans({"\n": "&#10;", "\r": "&#13;", "$": "&#36;", "\\": "&#92;"})


def as_markdown(text: str) -> str:
    """A model's text, ready for a Markdown renderer: formatting and maths work, HTML and images do not."""
    text = with_tex_signs(text.replace("\r\n", "\n").replace("\r", "\n"), JOINER)
    parts = _split_fences(text)
    if parts is None:
        return _disarmed(text)
    return "".join(_MERMAID.sub(_with_joiner, part) if fence else _prose(part) for fence, part in parts)


def as_typed(text: str) -> str:
    """A user's text as it was typed; `typed_text` takes it back, for editing."""
    return _BREAK.sub(_with_joiner, text)


def typed_text(shown: str) -> str:
    """The inverse of `as_typed`."""
    return shown.replace(JOINER, "")


def as_label(text: str) -> str:
    """One line of Markdown in which no sign is formatting."""
    return " ".join(text.split()).translate(_MARKDOWN_SIGNS)


def as_html(text: str) -> str:
    """Text inside HTML of ours that stands in a Markdown message.

    There an empty line ends the HTML, and math is cut out of it; so signs of both are written as entities.
    """
    return html.escape(text).translate(_READ_BEFORE_HTML)


def _prose(text: str) -> str:
    # A growing text is drawn many times, and looking for words first is much cheaper than for a pattern.
    if any(sign in text for sign in ("`", "~~~", "    ", "\t")) and _MAYBE_CODE.search(text):
        return _disarmed(text)
    if any(sign in text for sign in _TEX):
        return _disarmed(text)
    # As a bare address it is a link as well, and without its “>”.
    text = _AUTOLINK.sub(r"\1", text)
    text = text.replace("![", IMAGE).replace("<", "&lt;")
    return _UNSAFE_LINK.sub(_with_joiner, text) if "]" in text or "://" in text else text


def _disarmed(text: str) -> str:
    """The text with a joiner, or a TeX gap in maths, wherever something would begin that must not."""
    if not any(sign in text for sign in _TEX):
        return _BREAK.sub(_with_joiner, text)
    maths = [(start, end) for start, end, is_maths in spans(text) if is_maths]

    def break_it(place: re.Match[str]) -> str:
        while maths and maths[0][1] <= place.start():
            maths.pop(0)
        inside = bool(maths) and maths[0][0] <= place.start()
        return place[0] + (TEX_GAP if inside else JOINER)

    return _BREAK.sub(break_it, text)


def _with_joiner(place: re.Match[str]) -> str:
    return place[0] + JOINER


def _split_fences(text: str) -> list[tuple[bool, str]] | None:
    """The text in order, as (is a fenced block at the margin, part) pairs; a fence may still be open.

    None where Gradio's parser (marked) could see a fence begin or end in another place: then what is a
    block for one of us would be prose, and its tags live, for the other.
    """
    if "```" not in text and "~~~" not in text:
        return [(False, text)]
    if _math_touches_a_fence(text):
        return None
    parts: list[tuple[bool, str]] = []
    part: list[str] = []
    fence = ""
    for line in _LINE.findall(text):
        bare = line.rstrip("\n")
        if fence:
            part.append(line)
            if (closing := _CLOSING_FENCE.match(bare)) and closing[1].startswith(fence):
                if set(closing[1]) != {fence[0]}:
                    return None
                parts.append((True, "".join(part)))
                part, fence = [], ""
        elif opening := _OPENING_FENCE.match(bare):
            parts.append((False, "".join(part)))
            part, fence = [line], opening[1] or opening[2]
        elif "```" in line or "~~~" in line or "]:" in line:
            # A fence that is not at the margin, or the definition of a link, whose title may hold one.
            return None
        else:
            part.append(line)
    return [*parts, (bool(fence), "".join(part))]


def _math_touches_a_fence(text: str) -> bool:
    cut = text
    for math in _MATH:
        cut = math.sub("%", cut)
    return _fence_lines(cut) != _fence_lines(text)


def _fence_lines(text: str) -> list[str]:
    return [line for line in text.split("\n") if "```" in line or "~~~" in line]
