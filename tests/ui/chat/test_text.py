"""Markup in a model's text shows as text, images and odd links are not followed; code stays as it is."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dspy_demo.ui.chat.text import IMAGE, JOINER, TEX_GAP, as_html, as_label, as_markdown, as_typed

LIVE = r"<(?!https?://|mailto:)[A-Za-z/!?]|!\[|\]\(\s*(?!https?://|mailto:)|(```|~~~)[ \t]*mermaid"
TAGS, SIGNS = ["<b>", "</", "<!", "![", "](", "x", "mermaid"], ["```", "~~~", "`", "$$", "$", "\\(", "\\)"]
PIECES = [*TAGS, *SIGNS, "\n", " ", "\t"]
PLAIN = "a < b, **bold**, [link](https://x.org), <https://x.org>, <mailto:a@b.c>, $5, $10\n```\n  a < b\n```"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("<think>hm</think>", f"<{JOINER}think>hm<{JOINER}/think>"),
        (PLAIN, PLAIN),
        ("<https://x.org/<b>>", f"<{JOINER}https://x.org/<{JOINER}b>>"),
        ("![x](http://evil.example/p.png)", f"{IMAGE}[x](http://evil.example/p.png)"),
        ("`vec![1]` and\n```rust\nvec![1]\n```", f"`vec!{JOINER}[1]` and\n```rust\nvec!{JOINER}[1]\n```"),
        ("`<b>`", f"`<{JOINER}b>`"),
        ("$a<b$", f"{JOINER}\\(a<{TEX_GAP}b\\){JOINER}"),
        ("[a](javascript:x)", f"[a]{JOINER}(javascript:x)"),
        ("[a]: javascript:x", f"[a]{JOINER}: javascript:x"),
        ("see ftp://x.example", f"see ftp{JOINER}://x.example"),
        ("> ```mermaid\n> graph TD", f"> ```{JOINER}mermaid\n> graph TD"),
        ("a\r\nb\rc", "a\nb\nc"),
    ],
)
def test_a_models_text(text, shown):
    assert as_markdown(text) == shown


@settings(max_examples=300)
@given(st.lists(st.sampled_from(PIECES), max_size=24).map("".join))
def test_nothing_live_is_left_and_taking_the_signs_out_gives_the_text_back(text):
    shown = as_markdown(text)
    assert not re.search(LIVE, shown) and not re.search(LIVE, as_typed(text))
    assert as_typed(text).replace(JOINER, "") == text
    back = re.sub(rf"{JOINER}\\\((.*?)\\\){JOINER}", r"$\1$", shown.replace(IMAGE, "!"))
    assert back.replace(TEX_GAP, "").replace(JOINER, "") == text


def test_labels_and_html_have_no_formatting_and_no_maths():
    assert as_label("a\n\n *b*  \\(x\\)") == "a &#42;b&#42; &#92;(x&#92;)"
    assert as_html("<b>\n\n$$x$$ \\(") == "&lt;b&gt;&#10;&#10;&#36;&#36;x&#36;&#36; &#92;("
