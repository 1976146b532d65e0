"""The tools of the ReAct program. Each one is bounded, pure and safe with any text."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal, localcontext
from fractions import Fraction
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

EXPRESSION_MAX_CHARS = 1_000
EXPONENT_MAX, RESULT_MAX_BITS = 1_000, 4_096  # of a power
DIGITS_SHOWN = 12

_SPELLINGS = (
    (r"(?<=\d),(?=\d{3}\b)", ""),
    (r"[×⋅]|(?<=\d) ?x ?(?=\d)|\b(?:multiplied by|times)\b", "*"),
    (r"÷|\bdivided by\b", "/"),
    (r"\s*(?:\bsquared\b|²)", "**2"),
    (r"\^|\bto the power of\b", "**"),
    (r"−|,?\s*\bminus\b", "-"),
    (r",?\s*\bplus\b", "+"),
    (r"(\d+(?:\.\d+)?)\s*%\s*of\b", r"(\1/100)*"),
    (r"(\d+(?:\.\d+)?)%(?!\s*[\d(])", r"(\1/100)"),
)


class NoResult(Exception):
    """It cannot be calculated; the message is a sentence for people."""


class NotArithmetic(NoResult): ...


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if abs(exponent) > EXPONENT_MAX or base.numerator.bit_length() * abs(exponent) > RESULT_MAX_BITS:
        raise NoResult("the result is too large.")
    if exponent.denominator != 1:
        raise NoResult("only whole powers are known.")
    return base ** int(exponent)


_OPERATORS: dict[type[ast.AST], tuple[str, Callable[[Fraction, Fraction], Fraction]]] = {
    ast.Add: ("+", operator.add),
    ast.Sub: ("-", operator.sub),
    ast.Mult: ("*", operator.mul),
    ast.Div: ("/", operator.truediv),
    ast.Mod: ("%", operator.mod),
    ast.Pow: ("^", _power),
}


def calculate(expression: str) -> tuple[Fraction, list[str]]:
    """The exact value of an expression, and each step on the way; `NoResult` where it has none."""
    if len(expression) > EXPRESSION_MAX_CHARS:
        raise NoResult("it is too long.")
    steps: list[str] = []
    for pattern, python in _SPELLINGS:
        expression = re.sub(pattern, python, expression, flags=re.IGNORECASE)
    try:
        return _value(ast.parse(expression.strip(), mode="eval").body, steps), steps
    except ZeroDivisionError:
        raise NoResult("division by zero has no result.") from None
    except (SyntaxError, ValueError, OverflowError, MemoryError, RecursionError):
        raise NotArithmetic("it is not an arithmetic expression.") from None


def _value(node: ast.AST, steps: list[str]) -> Fraction:
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return Fraction(repr(number))
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            return -_value(inner, steps)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            sign, apply = _OPERATORS[type(op)]
            first, second = _value(left, steps), _value(right, steps)
            result = apply(first, second)
            if max(abs(result.numerator), result.denominator).bit_length() > RESULT_MAX_BITS:
                raise NoResult("the result is too large.")
            steps.append(f"{shown(first)} {sign} {shown(second)} {equals(result)}")
            return result
    raise NotArithmetic("it is not an arithmetic expression.")


def shown(value: Fraction) -> str:
    """A number in at most `DIGITS_SHOWN` digits, but for whole ones, which are shown in all of theirs."""
    if value.denominator == 1:
        return str(value.numerator)
    with localcontext(prec=DIGITS_SHOWN):
        return f"{(Decimal(value.numerator) / Decimal(value.denominator)).normalize():.{DIGITS_SHOWN}g}"


def equals(value: Fraction) -> str:
    """What stands behind an expression: ``= 2.5``, or ``≈ 0.333333333333`` where that is not all of it."""
    text = shown(value)
    return f"= {text}" if Fraction(text) == value else f"≈ {text}"


def calculator(expression: str) -> str:
    """Evaluate an arithmetic expression exactly, for example "(2 + 3) * 4 / 7" or "15% of 80"."""
    try:
        return shown(calculate(expression)[0])
    except NoResult as error:
        return f"Cannot calculate that: {error}"


def current_time(timezone: str) -> str:
    """The date and time now in an IANA time zone, for example "Europe/Paris", "Asia/Tokyo" or "UTC"."""
    try:
        zone = ZoneInfo(timezone.strip())
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return f"There is no time zone named {timezone[:60]!r}. Use one like Europe/Paris."
    return datetime.now(zone).strftime("%A, %Y-%m-%d %H:%M:%S %Z")


def text_statistics(text: str) -> str:
    """Count the characters, letters, words and lines of a text."""
    letters, words = sum(letter.isalpha() for letter in text), re.findall(r"[\w'’-]+", text)
    return f"{len(text)} characters, {letters} letters, {len(words)} words, {len(text.splitlines())} lines"
