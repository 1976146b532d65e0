"""Questions that are arithmetic: "What is 15% of 80?", "two plus two", "Is 2 + 2 = 5?"."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from fractions import Fraction

from dspy_demo.lm.rules.evaluation import NoResult, evaluate
from dspy_demo.lm.rules.expression import (
    MAX_LENGTH,
    Malformed,
    Node,
    NotArithmetic,
    Number,
    operations,
    parse,
    render,
)
from dspy_demo.lm.rules.numerals import Real, in_words
from dspy_demo.lm.rules.reply import Reply
from dspy_demo.lm.rules.words import with_symbols

_ASIDES = (
    "what is|what's|whats|what does|what are|what do you get for|what will|what would|how much is|"
    "how much are|how much does|how many is|calculate|compute|evaluate|work out|"
    "solve|simplify|find|figure out|determine|"
    "can you|could you|would you|will you|please|pls|tell me|give me|show me|do you know|i need|i want|"
    "value of|result of|answer to|the|hi|hello|hey|ok|okay|so|now|then|well|and|just|"
    "step by step|step-by-step|show your work|show the steps|with steps|explain|explain why|and explain|"
    "exactly|as a fraction|as a decimal|for me|again|thanks|thank you|in total|equals to|equals|"
    "equal to|equal|be|make|makes|give|gives|come to|is|first|me|you|your reasoning|think|carefully|and why|"
    "using the calculator|use the calculator|with the calculator|using a calculator|calculator"
)
_ASIDE_BEFORE = re.compile(rf"^(?:(?:{_ASIDES})\b|[\s,.:;!?\"'=])+")
_ASIDE_AFTER = re.compile(rf"(?:\b(?:{_ASIDES})|[\s,.:;?\"'=]|(?<=\?)!)+$")

_RELATIONS: dict[str, tuple[str, Callable[[Fraction, Fraction], bool]]] = {
    "==": ("equal to", operator.eq),
    "=": ("equal to", operator.eq),
    "!=": ("different from", operator.ne),
    ">=": ("at least", operator.ge),
    "<=": ("at most", operator.le),
    ">": ("greater than", operator.gt),
    "<": ("less than", operator.lt),
}
_RELATION_WORDS = (
    (r"\b(?:is |are )?(?:greater|bigger|larger|more|higher) than\b", ">"),
    (r"\b(?:is |are )?(?:less|smaller|fewer|lower) than\b", "<"),
    (r"\b(?:is |are )?(?:equal to|equals|the same as|same as)\b", "="),
)
_CLAIM = re.compile(r"^(?:is|are|does|do|check (?:if|whether|that)|is it true that|true or false:?)\s+")


def answer_arithmetic(question: str) -> Reply | None:
    """The answer to an arithmetic question, or None where it is something else."""
    text = with_symbols(question[: 4 * MAX_LENGTH])
    claim = _answer_claim(text)
    if claim:
        return claim
    expression = strip_asides(text)
    try:
        tree = parse(expression)
    except NotArithmetic:
        return None
    except Malformed as error:
        return _unreadable(expression, error)
    return _answer_expression(tree) if operations(tree) else None


def strip_asides(text: str) -> str:
    """`text` without the words around it that ask, greet or thank."""
    return _ASIDE_AFTER.sub("", _ASIDE_BEFORE.sub("", text)).strip()


def _answer_expression(tree: Node) -> Reply:
    written = render(tree)
    code = render(tree, code=True)
    try:
        result, found = evaluate(tree)
    except NoResult as refusal:
        return Reply(str(refusal), (str(refusal),), "arithmetic", None, code)
    return Reply(equation(written, result), _narrate(written, found), "arithmetic", result.value, code)


def equation(written: str, result: Real) -> str:
    """``2 + 2 = 4.``, or ``sqrt(2) is about 1.414213562.``"""
    return f"{written} {'=' if result.exact else 'is'} {in_words(result)}."


def _narrate(written: str, found: tuple[str, ...]) -> tuple[str, ...]:
    """The steps as sentences, in the order in which precedence takes them."""
    if not found:
        return (f"{written} is already a number.",)
    if len(found) == 1:
        return (f"There is one operation to do in {written}.", f"{found[0]}.")
    opening = (
        f"{written} takes {len(found)} steps; brackets come first, then powers, then * and /, then + and -."
    )
    openers = ["First", *["Then"] * (len(found) - 2), "Last"]
    return (opening, *(f"{opener}, {step}." for opener, step in zip(openers, found, strict=True)))


def _unreadable(expression: str, error: Malformed) -> Reply | None:
    looks_meant = re.search(r"\d", expression) and re.search(r"[-+*/^%(]|mod\b", expression)
    if not looks_meant:
        return None
    shown = expression if len(expression) <= 60 else f"{expression[:57]}..."
    sentence = f'I cannot read "{shown}" as arithmetic: {error}.'
    return Reply(sentence, (sentence,), "arithmetic")


def _answer_claim(text: str) -> Reply | None:
    """Claims: "Is 2 + 2 = 5?" and "Is 3/4 greater than 2/3?"."""
    asked = _CLAIM.match(text)
    claim = text[asked.end() :] if asked else text
    for pattern, symbol in _RELATION_WORDS:
        claim = re.sub(pattern, symbol, claim)
    parts = re.split(r"(==|!=|>=|<=|=|>|<)", claim.rstrip("?. "))
    if len(parts) != 3 or not parts[2].strip():
        return None
    try:
        left, right = parse(parts[0]), parse(parts[2])
    except (NotArithmetic, Malformed):
        return None
    return _judge(left, parts[1], right)


def _judge(left: Node, symbol: str, right: Node) -> Reply:
    words, holds = _RELATIONS[symbol]
    claim = f"{render(left)} {symbol} {render(right)}"
    try:
        (first, first_steps), (second, second_steps) = evaluate(left), evaluate(right)
    except NoResult as refusal:
        return Reply(str(refusal), (str(refusal),), "arithmetic")
    if not (first.exact and second.exact) and abs(first.value - second.value) < Fraction(1, 10**40):
        sentence = f"I cannot decide {claim} exactly: both sides are about {first}."
        return Reply(sentence, (sentence,), "arithmetic")
    true = holds(first.value, second.value)
    facts = [
        equation(render(side), value)
        for side, value in ((left, first), (right, second))
        if not isinstance(side, Number)
    ]
    verdict = f"{in_words(first)} {'is' if true else 'is not'} {words} {in_words(second)}"
    sentence = f"{'Yes' if true else 'No'}: {verdict}, so {claim} is {'true' if true else 'false'}."
    steps = tuple(f"{step}." for step in (*first_steps, *second_steps)) or tuple(facts)
    return Reply(sentence, (*steps, f"{verdict[0].upper()}{verdict[1:]}."), "arithmetic", true, claim)
