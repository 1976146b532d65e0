"""Markup in a model's text shows as text; code stays as it is."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspy_demo.ui.markdown_safety import JOINER, as_markdown, as_typed, typed_text

FENCE = '```python\n    if a < b:\n        print("<b>")\n```'


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("<think>hm</think>", "&lt;think>hm&lt;/think>"),
        ("<script>alert(1)</script>", "&lt;script>alert(1)&lt;/script>"),
        ("a < b and b > c", "a &lt; b and b > c"),
        ("**bold** and [link](https://x.org)", "**bold** and [link](https://x.org)"),
        ("![x](http://evil.example/p.png)", f"!{JOINER}[x](http://evil.example/p.png)"),
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


def test_mermaid_is_drawn_as_plain_code() -> None:
    assert as_markdown("```mermaid\ngraph TD\n```").startswith("``` mermaid\n")


@given(st.text(alphabet="<>b/!?`~$ \n\t-[](x\\", max_size=60))
def test_outside_margin_fences_no_tag_is_left(text: str) -> None:
    shown = as_markdown(text)
    if not re.search(r"^(```|~~~)", text, re.MULTILINE):
        assert not re.search(r"<[A-Za-z/!?]", shown)
        assert not re.search(r"!\[", shown)


@given(st.text(max_size=80).filter(lambda text: JOINER not in text))
def test_what_was_typed_comes_back_for_editing(text: str) -> None:
    assert typed_text(as_typed(text)) == text
