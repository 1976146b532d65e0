"""Markup in a model's text shows as text, images and odd links are not followed; code stays as it is."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dspy_demo.ui.chat.markdown_safety import (
    IMAGE,
    JOINER,
    as_html,
    as_label,
    as_markdown,
    as_typed,
    typed_text,
)

LIVE = re.compile(r"<[A-Za-z/!?]|!\[")
#: How Gradio's parser finds a fenced block (marked 12, `block.fences`).
MARKED_FENCE = re.compile(
    r" {0,3}(`{3,}(?=[^`\n]*(?:\n|\Z))|~{3,})([^\n]*)(?:\n|\Z)(?:|([\s\S]*?)(?:\n|\Z))"
    r"(?: {0,3}\1[~`]* *(?=\n|\Z)|\Z)"
)
FENCE = '```python\n    if a < b:\n        print("<b>")\n```'


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("<think>hm</think>", "&lt;think>hm&lt;/think>"),
        ("<script>alert(1)</script>", "&lt;script>alert(1)&lt;/script>"),
        ("a < b and b > c", "a &lt; b and b > c"),
        ("**bold** and [link](https://x.org)", "**bold** and [link](https://x.org)"),
        ("![x](http://evil.example/p.png)", f"{IMAGE}x](http://evil.example/p.png)"),
        ("![][1]", f"{IMAGE}][1]"),
        ("<https://x.org>, <mailto:a@b.example>", "https://x.org, mailto:a@b.example"),
        ("<https://x.org>y", "&lt;https://x.org>y"),
        ("", ""),
    ],
)
def test_prose(text: str, shown: str) -> None:
    assert as_markdown(text) == shown


@pytest.mark.parametrize(
    "text", [FENCE, f"{FENCE}\n", FENCE.replace("```", "~~~~"), "```\n<div>\nstill open"]
)
def test_a_fence_at_the_margin_is_unchanged(text: str) -> None:
    assert as_markdown(text) == text


def test_prose_around_a_fence_is_escaped() -> None:
    assert as_markdown(f"<b>\n{FENCE}\n<i>") == f"&lt;b>\n{FENCE}\n&lt;i>"


@pytest.mark.parametrize(
    "text",
    ["`<b>`", "    <b>indented</b>", "- item\n  ```html\n  <b>\n  ```", "`` ` <b> ``", "> ```\n> <b>\n> ```"],
)
def test_where_it_may_be_code_it_looks_the_same_and_is_no_tag(text: str) -> None:
    shown = as_markdown(text)
    assert shown.replace(JOINER, "") == text
    assert not re.search(r"<[A-Za-z/!?]", shown)


def test_a_fence_with_a_backtick_in_its_first_line_is_none() -> None:
    assert "<img" not in as_markdown("``` `x\n<img src=x>\n")


def test_a_shorter_or_indented_fence_does_not_close() -> None:
    text = "````\n```\n<b>\n    ````\n<i>\n````"
    assert as_markdown(text) == text


@pytest.mark.parametrize("math", ["$$\n```\n$$", "\\[\n~~~\n\\]"])
def test_a_fence_that_math_swallows_hides_nothing(math: str) -> None:
    assert "<img" not in as_markdown(f"{math}\n<img src=x>\n")


@pytest.mark.parametrize("before", ["", "> ", "- ", "1. ", " ", "text\n\n"])
@pytest.mark.parametrize("mark", ["```mermaid", "``` mermaid", "````Mermaid", "~~~\tmermaid"])
def test_mermaid_is_drawn_as_plain_code(before: str, mark: str) -> None:
    text = f"{before}{mark}\ngraph TD\n"
    for shown in (as_markdown(text), as_typed(text)):
        assert f"{JOINER}mermaid" in shown.lower()
        assert shown.replace(JOINER, "") == text


@pytest.mark.parametrize(
    "text",
    [
        "[a](javascript:x)",
        "[a]( JaVaScRiPt:x)",
        "[a](<javascript:x>)",
        "[a](&#106;avascript:x)",
        "[a](\njavascript:x)",
        "[a](data:text/html,x)",
        "[a](vbscript:x)",
        "[a](file:///etc/passwd)",
        "[a](/relative)",
        "[a](//evil.example)",
        "[a](https:evil)",
        "[a]: javascript:x",
        "[a]:\n<javascript:x>",
    ],
)
def test_a_link_to_an_odd_place_is_none(text: str) -> None:
    for shown in (as_markdown(text), as_typed(text), as_markdown(f"`code` {text}")):
        assert not re.search(r"\](\(|:)", shown)


@pytest.mark.parametrize(
    "text", ["[a](https://x.org)", "[a]( HTTP://x.org 't')", "[a](mailto:a@b.example)", "[a]: https://x.org"]
)
def test_other_links_stay(text: str) -> None:
    assert as_markdown(text) == as_typed(text) == text


def test_ftp_is_no_link() -> None:
    assert "ftp://" not in as_markdown("see ftp://x.example")


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("\\[ $$ \\]\n```\n$$\n<img src=x>\n```", id="math that crosses other math"),
        pytest.param("```<b>\\(\n\\)```\n<img src=x>\n```", id="math that joins lines"),
        pytest.param('[a]: http://x "\n```\n"\n<img src=x>\n```', id="the title of a definition"),
        pytest.param("a\u2028```\n<img src=x>\n```", id="a line end that Markdown has not"),
        pytest.param("```\ncode\n```~\n<img src=x>\n```", id="a mixed closing fence"),
        pytest.param(" ```\n```\n<img src=x>\n```", id="an indented opening fence"),
        pytest.param("- ```\n```\n<img src=x>\n```", id="a fence in a list"),
        pytest.param("> ~~~\n```\n> ~~~\n<img src=x>\n```", id="a fence in a quotation"),
        pytest.param("```\r<img src=x>\r```\r<img src=x>", id="carriage returns"),
    ],
)
def test_where_a_fence_could_be_read_in_two_ways_no_tag_is_left(text: str) -> None:
    assert not LIVE.search(_without_fences(as_markdown(text)))


def _without_fences(text: str) -> str:
    """What Gradio's parser does not see as a fenced block."""
    for math in (r"\$\$.+?\$\$", r"\\\[.+?\\\]", r"\\\(.+?\\\)"):
        text = re.sub(math, "%", text, flags=re.DOTALL)
    prose, at = "", 0
    while at < len(text):
        if fence := MARKED_FENCE.match(text, at):
            at = max(fence.end(), at + 1)
        end = text.find("\n", at) + 1 or len(text)
        prose += text[at:end]
        at = end
    return prose


@settings(max_examples=400)
@given(st.text(alphabet="<>b/!?`~$ \n\t-[](x\\", max_size=60))
def test_outside_margin_fences_no_tag_is_left(text: str) -> None:
    shown = as_markdown(text)
    if not re.search(r"^(```|~~~)", text, re.MULTILINE):
        assert not LIVE.search(shown)


PIECES = [
    "```",
    "~~~",
    "````",
    "~",
    "`",
    "\n",
    "\n",
    " ",
    "   ",
    "\t",
    "<b>",
    "![",
    "$$",
    "\\(",
    "\\)",
    "\\[",
    "\\]",
    "$",
    "x",
]


@settings(max_examples=400)
@given(st.lists(st.sampled_from(PIECES), max_size=24).map("".join))
def test_gradios_parser_finds_no_tag_outside_its_fences(text: str) -> None:
    assert not LIVE.search(_without_fences(as_markdown(text)))


def test_a_label_is_one_line_without_formatting() -> None:
    assert as_label("a\n\n *b*  \\(x\\)") == "a &#42;b&#42; &#92;(x&#92;)"
    assert not LIVE.search(as_label("![x](https://x.org) <b>"))


def test_html_within_markdown_has_no_empty_line_and_no_math() -> None:
    assert as_html("<b>\n\n$$x$$ \\(") == "&lt;b&gt;&#10;&#10;&#36;&#36;x&#36;&#36; &#92;("


@given(st.text(max_size=80).filter(lambda text: JOINER not in text))
def test_what_was_typed_comes_back_for_editing(text: str) -> None:
    assert typed_text(as_typed(text)) == text
