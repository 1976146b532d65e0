from __future__ import annotations

import re
from contextlib import suppress
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dspy_demo.lm.rules.arithmetic import answer_arithmetic
from dspy_demo.lm.rules.evaluation import NoResult, evaluate
from dspy_demo.lm.rules.expression import Malformed, NotArithmetic, parse, render

EXACT = {
    "What is 2 + 2?": "2 + 2 = 4.",
    "2 + 3 * 4": "2 + 3 * 4 = 14.",
    "(2 + 3) * 4": "(2 + 3) * 4 = 20.",
    "two plus two": "2 + 2 = 4.",
    "What is two hundred and five times three?": "205 * 3 = 615.",
    "15% of 80": "15% of 80 = 12.",
    "80 + 15%": "80 + 15% = 92.",
    "80 - 15%": "80 - 15% = 68.",
    "10 % 3": "10 mod 3 = 1.",
    "-7 mod 3": "-7 mod 3 = 2.",
    "7 // 2": "7 // 2 = 3.",
    "-2^2": "-2 ^ 2 = -4.",
    "(-2)^2": "(-2) ^ 2 = 4.",
    "2^3^2": "2 ^ 3 ^ 2 = 512.",
    "(2^3)^2": "(2 ^ 3) ^ 2 = 64.",
    "2**-2": "2 ^ (-2) = 0.25.",
    "1/3": "1 / 3 = 1/3 (about 0.3333).",
    "22/7": "22 / 7 = 22/7 (about 3.1429).",
    "0.1 + 0.2": "0.1 + 0.2 = 0.3.",
    "1/3 + 1/6": "1 / 3 + 1 / 6 = 0.5.",
    "1,234,567 * 2": "1234567 * 2 = 2469134.",
    "7 ÷ 2 × 4": "7 / 2 * 4 = 14.",
    "3 x 4": "3 * 4 = 12.",
    "2(3+4)": "2 * (3 + 4) = 14.",
    "square root of 144": "sqrt(144) = 12.",
    "√16 + 9": "sqrt(16) + 9 = 13.",
    "sqrt(2)": "sqrt(2) is about 1.414213562.",
    "sqrt(2) * sqrt(2)": "sqrt(2) * sqrt(2) is about 2.",
    "8 ^ (1/3)": "8 ^ (1 / 3) = 2.",
    "cube root of -27": "cbrt(-27) = -3.",
    "5!": "5! = 120.",
    "5 squared": "5 ^ 2 = 25.",
    "half of 9": "1 / 2 of 9 = 4.5.",
    "divide 10 by 4": "10 / 4 = 2.5.",
    "subtract 3 from 10": "10 - 3 = 7.",
    "the sum of 3 and 4": "3 + 4 = 7.",
    "Is 2 + 2 = 5?": "No: 4 is not equal to 5, so 2 + 2 = 5 is false.",
    "Is 3/4 greater than 2/3?": "Yes: 0.75 is greater than 2/3 (about 0.6667), so 3 / 4 > 2 / 3 is true.",
    "1/0": "Division by zero is not defined, so 1 / 0 has no value.",
    "Please calculate 6 * 7, step by step": "6 * 7 = 42.",
    "2 + * 3": 'I cannot read "2 + * 3" as arithmetic: a number is missing before "*".',
}


@pytest.mark.parametrize(("question", "sentence"), EXACT.items())
def test_exact_answers(question: str, sentence: str) -> None:
    reply = answer_arithmetic(question)
    assert reply is not None
    assert reply.sentence == sentence


def test_steps_follow_precedence() -> None:
    reply = answer_arithmetic("2 + 3 * 4")
    assert reply is not None
    assert reply.steps[1:] == ("First, 3 * 4 = 12.", "Last, 2 + 12 = 14.")


@pytest.mark.parametrize(
    "text", ["9**9**9", "9^9^9^9", "999999!", "2^100000", "(10^400)*(10^400)", "1.5^99999", "2.5^(10^9+0.5)"]
)
def test_blow_ups_are_refused_at_once(text: str) -> None:
    reply = answer_arithmetic(text)
    assert reply is not None
    assert "digits" in reply.sentence
    assert len(reply.sentence) < 200


@pytest.mark.parametrize(
    "text", ["(" * 5000 + "1" + ")" * 5000, "-" * 5000 + "1", "1+" * 5000 + "1", "2^" * 300 + "1"]
)
def test_huge_inputs_do_not_crash(text: str) -> None:
    reply = answer_arithmetic(text)
    assert reply is None or len(reply.sentence) < 300


@pytest.mark.parametrize(
    "text", ["import os", "__import__('os')", "hello", "2 apples + 3 pears", "42", "", "x = 3"]
)
def test_other_text_is_left_alone(text: str) -> None:
    assert answer_arithmetic(text) is None


NUMBERS = st.one_of(
    st.integers(0, 99).map(str),
    st.decimals(0, 99, places=2, allow_nan=False).map(str),
)


def _combined(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    operators = st.sampled_from([" + ", " - ", "*", " / ", " // ", " mod "])
    return st.one_of(
        st.tuples(inner, operators, inner).map("".join),
        inner.map("({})".format),
        inner.map("-{}".format),
        st.tuples(inner.map("({})".format), st.sampled_from(["^2", "**3", " ^ -1"])).map("".join),
    )


EXPRESSIONS = st.recursive(NUMBERS, _combined, max_leaves=8)


def _by_python(text: str) -> Fraction:
    """The same expression by Python's own parser, with exact numbers."""
    exact = re.sub(r"\d+(?:\.\d+)?", lambda number: f"Fraction('{number[0]}')", text)
    code = exact.replace("^", "**").replace(" mod ", " % ")
    return Fraction(eval(code, {"Fraction": Fraction}))


@settings(max_examples=300)
@given(EXPRESSIONS)
def test_agrees_with_python(text: str) -> None:
    try:
        tree = parse(text)
    except Malformed:
        return
    try:
        expected = _by_python(text)
    except ZeroDivisionError:
        with pytest.raises(NoResult):
            evaluate(tree)
        return
    value, steps = evaluate(tree)
    assert value.exact
    assert value.value == expected
    assert _by_python(render(tree)) == expected
    assert _by_python(render(tree, code=True)) == expected
    for step in steps:
        left, _, right = step.partition(" = ")
        claimed = re.sub(r" \(about .*\)", "", right)
        assert _by_python(left) == _by_python(claimed), step


@settings(max_examples=300)
@given(st.text(alphabet="0123456789+-*/^%!().x, ofsqrtpi", max_size=40))
def test_any_text_is_read_or_declined(text: str) -> None:
    with suppress(NotArithmetic, Malformed, NoResult):
        evaluate(parse(text))
