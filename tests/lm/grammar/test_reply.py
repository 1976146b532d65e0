"""Any reply that the grammar allows is one that the adapter can read, cut and completed ones too."""

from __future__ import annotations

import random
from datetime import date
from typing import Any, Literal

import dspy
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dspy_demo.lm.grammar import reply_grammar
from tests.lm.grammar.signatures import DEEP, SIMPLE, signature, signatures, text_of, types

ADAPTERS: dict[Any, dspy.Adapter] = {
    "chat": dspy.ChatAdapter(),
    "json": dspy.JSONAdapter(),
    "xml": dspy.XMLAdapter(),
}
SLOW = settings(max_examples=30)


@SLOW
@given(
    signatures(types(*SIMPLE, *DEEP)), st.sampled_from(["chat", "json"]), st.randoms(use_true_random=False)
)
def test_every_reply_parses(asked: type[dspy.Signature], kind: Any, chance: random.Random) -> None:
    grammar = reply_grammar(asked, kind, 400)
    assert grammar is not None
    text = text_of(grammar, chance)
    assert ADAPTERS[kind].parse(asked, text).keys() == asked.output_fields.keys()


@SLOW
@given(
    signatures(types(*SIMPLE, *DEEP)), st.sampled_from(["chat", "json"]), st.randoms(use_true_random=False)
)
def test_a_reply_that_was_cut_parses_when_completed(
    asked: type[dspy.Signature], kind: Any, chance: random.Random
) -> None:
    grammar = reply_grammar(asked, kind, 100)
    assert grammar is not None
    text = text_of(grammar, chance)
    cut = text[: chance.randint(0, len(text))]
    missing = grammar.completion(cut)
    assert missing is not None
    assert ADAPTERS[kind].parse(asked, cut + missing).keys() == asked.output_fields.keys()


@SLOW
@given(
    signatures(st.sampled_from([str, int, float, bool, dspy.Reasoning, Literal["yes", "no"], Literal[1, 2]])),
    st.randoms(use_true_random=False),
)
def test_xml_without_nesting_parses(asked: type[dspy.Signature], chance: random.Random) -> None:
    grammar = reply_grammar(asked, "xml", 400)
    assert grammar is not None
    text = text_of(grammar, chance)
    assert ADAPTERS["xml"].parse(asked, text).keys() == asked.output_fields.keys()


def test_text_comes_back_as_it_was_written() -> None:
    asked = signature({"answer": str, "more": str | None})
    parsed = ADAPTERS["chat"].parse(asked, reply_text("chat", asked, "é [[x]]\n\n- a", "null"))
    assert parsed == {"answer": "é [[x]]\n\n- a", "more": "null"}


def reply_text(kind: Any, asked: type[dspy.Signature], *values: str) -> str:
    names = list(asked.output_fields)
    parts = [f"[[ ## {name} ## ]]\n{value}\n\n" for name, value in zip(names, values, strict=True)]
    text = "".join(parts) + "[[ ## completed ## ]]"
    grammar = reply_grammar(asked, kind, 400)
    assert grammar is not None and grammar.matches(text)
    return text


class Patterned(pydantic.BaseModel):
    code: str = pydantic.Field(pattern="^[a-z]+$")


class Stepped(pydantic.BaseModel):
    fives: int = pydantic.Field(multiple_of=5)


class Endless(pydantic.BaseModel):
    again: Endless


@pytest.mark.parametrize("annotation", [Patterned, list[Stepped], set[int], Endless, Literal["a\nb"]])
def test_what_a_grammar_cannot_promise_has_none(annotation: Any) -> None:
    assert reply_grammar(signature({"answer": annotation}), "chat", 400) is None


@pytest.mark.parametrize("annotation", [int | str, date])
def test_strings_that_the_json_adapter_reads_twice_have_none(annotation: Any) -> None:
    assert reply_grammar(signature({"answer": annotation}), "json", 400) is None
    assert reply_grammar(signature({"answer": annotation}), "chat", 400) is not None


def test_nested_xml_has_none() -> None:
    assert reply_grammar(signature({"answer": list[str]}), "xml", 400) is None


def test_a_long_reasoning_leaves_room_for_the_answer() -> None:
    asked = signature({"reasoning": str, "answer": str})
    grammar = reply_grammar(asked, "chat", 1024)
    assert grammar is not None
    reasoning = "[[ ## reasoning ## ]]\n" + "a" * 1500
    assert grammar.completion(reasoning) is not None
    assert grammar.completion(reasoning + "a" * 100) is None
