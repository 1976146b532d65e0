"""The splitters that go, and the parsers in their place, side by side."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspy_demo.adapters import adapter_for, prefix_parser
from dspy_demo.streaming.chat_splitter import ChatSplitter
from dspy_demo.streaming.json_splitter import JSONSplitter
from dspy_demo.streaming.xml_splitter import XMLSplitter
from tests.test_adapters import FIELDS, TwoTexts, any_text, many, some_sizes

OLD = {"chat": ChatSplitter, "json": JSONSplitter, "xml": XMLSplitter}


@pytest.mark.parametrize("kind", OLD)
@many
@given(reasoning=any_text, answer=any_text, cut=st.integers(0, 30), sizes=some_sizes)
def test_both_show_the_same(kind: str, reasoning: str, answer: str, cut: int, sizes: list[int]) -> None:
    values = {"reasoning": reasoning.replace("\r", ""), "answer": answer.replace("\r", "")}
    text = adapter_for(kind).format_assistant_message_content(TwoTexts, values)
    text = text[: len(text) - cut] if kind == "chat" else text
    shown = []
    for parser in (OLD[kind](FIELDS), prefix_parser(kind, FIELDS)):
        found = dict.fromkeys(FIELDS, "")
        at = 0
        while at < len(text):
            size = sizes[at % len(sizes)]
            for piece in parser.feed(text[at : at + size]):
                found[piece.field] += piece.text
            at += size
        for piece in parser.finish():
            found[piece.field] += piece.text
        shown.append(found)
    assert shown[0] == shown[1]
