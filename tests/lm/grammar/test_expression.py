"""Expressions: what they are in GBNF, what may follow a prefix, and how it is completed."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from dspy_demo.lm.grammar.characters import PRINTABLE, free_text, json_string
from dspy_demo.lm.grammar.expression import (
    EMPTY,
    NEVER,
    Exactly,
    Expression,
    OneOf,
    Repeated,
    choice,
    exactly_one,
    maybe,
    sequence,
)
from tests.lm.grammar.signatures import text_of

DIGITS = OneOf((("0", "9"),), "0")
LEAVES = st.sampled_from([Exactly("ab"), Exactly("a"), DIGITS, EMPTY, Exactly('"\n')])
EXPRESSIONS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda parts: sequence(*parts)),
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: choice(*parts)),
        st.tuples(inner, st.integers(0, 2)).map(lambda pair: Repeated(pair[0], pair[1], pair[1] + 2)),
    ),
    max_leaves=6,
)


@given(EXPRESSIONS, st.randoms(use_true_random=False))
def test_any_prefix_of_its_texts_can_be_completed(expression: Expression, chance: random.Random) -> None:
    text = text_of(expression, chance)
    assert expression.matches(text)
    prefix = text[: chance.randint(0, len(text))]
    missing = expression.completion(prefix)
    assert missing is not None and expression.matches(prefix + missing)
    assert len(prefix + missing) <= len(text) or prefix + missing != text


def test_what_it_cannot_be_has_no_completion() -> None:
    assert Exactly("abc").completion("abd") is None
    assert Repeated(DIGITS, 1, 3).completion("1234") is None
    assert not Repeated(DIGITS, 1, 3).matches("")
    assert sequence(Exactly("a"), NEVER) == NEVER and NEVER.shortest is None


def test_the_shortest_way_is_taken() -> None:
    pair = sequence(Exactly("{"), maybe(Exactly("long")), choice(Exactly("yes"), Exactly("n")), Exactly("}"))
    assert pair.completion("") == "{n}"
    assert pair.completion("{lo") == "ngn}"


def test_gbnf_is_ascii_and_names_what_is_repeated() -> None:
    grammar = sequence(Exactly('é"\n\\'), Repeated(exactly_one(("a", "👍")), 2, None)).grammar()
    assert grammar == 'root ::= "\\xE9\\x22\\x0A\\x5C" r0{2,}\nr0 ::= "a" | "\\U0001F44D"\n'
    assert grammar.isascii()


def test_bytes_that_were_no_text_do_not_count() -> None:
    """The runtime shows each as U+FFFD, more of them than characters that it had counted."""
    word = sequence(Repeated(PRINTABLE, 0, 2), Exactly("!"))
    assert word.completion("a\ufffd\ufffd\ufffd") == "!"


def test_a_line_of_text_is_never_a_header() -> None:
    text = free_text(200)
    for header in ("[[ ## answer ## ]]", "a\n[[ ## answer ## ]]", "a\n\n   [[ ## answer ## ]]", "a\n[[x"):
        assert not text.matches(header), header
    for fine in ("[1, 2]", "a [[b]]", "if [[ -f x ]]", "a\n[b] c", "a\n\n    indented", "x"):
        assert text.matches(fine), fine


def test_a_json_string_is_bounded_and_escaped() -> None:
    string = json_string(100, least=1, most=3)
    assert string.matches('"a\\"b"') and string.matches('"ééé"') and string.matches('"\\n"')
    assert not any(string.matches(text) for text in ('""', '"abcd"', '"a"b"', '"\n"', '"\\"'))
