"""Evaluates an expression exactly, one true step at a time."""

from __future__ import annotations

import math
from decimal import Context, Decimal, DecimalException
from fractions import Fraction

from dspy_demo.lm.rules.expression import Binary, Constant, Node, Number, Prefix, Suffix
from dspy_demo.lm.rules.numerals import MAX_DIGITS, Real, in_words

MAX_FACTORIAL = 250
_DIGITS_KEPT = 60
_BITS = int(MAX_DIGITS * math.log2(10))
_PI = Real(Fraction("3.14159265358979323846264338327950288419716939937510582097494"), exact=False)


class NoResult(ArithmeticError):
    """The expression has no result, or one too large to write; the message is a sentence."""


def evaluate(node: Node) -> tuple[Real, tuple[str, ...]]:
    """The value of the tree and the steps to it, in order of precedence.

    Raises:
        NoResult: Division by zero, an even root of a negative number, or too many digits.
    """
    steps: list[str] = []
    return _evaluate(node, steps), tuple(steps)


def _evaluate(node: Node, steps: list[str]) -> Real:
    match node:
        case Number(value):
            return Real(value)
        case Constant():
            return _PI
        case Prefix("-", operand):
            inner = _evaluate(operand, steps)
            return Real(-inner.value, inner.exact)
        case Prefix(name, operand):
            inner = _evaluate(operand, steps)
            return _step(steps, f"{name}({inner})", _apply(name, inner))
        case Suffix("!", operand):
            inner = _evaluate(operand, steps)
            return _step(steps, f"{_operand(inner)}!", _factorial(inner))
        case Suffix(_, operand):
            inner = _evaluate(operand, steps)
            return _step(steps, f"{_operand(inner)}%", Real(inner.value / 100, inner.exact))
        case Binary("of", Suffix("%", share), whole):
            return _percentage(_evaluate(share, steps), _evaluate(whole, steps), steps)
        case Binary("+" | "-" as sign, left, Suffix("%", share)) if not _is_percentage(left):
            # As on a pocket calculator: "80 + 15%" adds 15% of the 80.
            whole_value = _evaluate(left, steps)
            part = _percentage(_evaluate(share, steps), whole_value, steps)
            return _combine(sign, whole_value, part, steps)
        case Binary(operator, left, right):
            return _combine(operator, _evaluate(left, steps), _evaluate(right, steps), steps)


def _is_percentage(node: Node) -> bool:
    return isinstance(node, Suffix) and node.operator == "%"


def _percentage(share: Real, whole: Real, steps: list[str]) -> Real:
    part = Real(share.value * whole.value / 100, share.exact and whole.exact)
    return _step(steps, f"{_operand(share)}% of {_operand(whole)}", part)


def _combine(operator: str, left: Real, right: Real, steps: list[str]) -> Real:
    exact = left.exact and right.exact
    written = f"{_operand(left, first=operator in '+-')} {operator} {_operand(right)}"
    match operator:
        case "+":
            result = Real(left.value + right.value, exact)
        case "-":
            result = Real(left.value - right.value, exact)
        case "*" | "of":
            result = Real(left.value * right.value, exact)
        case "^":
            result = _power(left, right)
        case _:
            result = _divide(operator, left, right, written)
    return _step(steps, written, result)


def _divide(operator: str, left: Real, right: Real, written: str) -> Real:
    if right.value == 0:
        raise NoResult(f"Division by zero is not defined, so {written} has no value.")
    if operator == "/":
        return Real(left.value / right.value, left.exact and right.exact)
    if not (left.exact and right.exact):
        raise NoResult(f"I only round down exact numbers, so I cannot say what {written} is.")
    whole = left.value // right.value
    return Real(Fraction(whole) if operator == "//" else left.value - whole * right.value)


def _power(base: Real, exponent: Real) -> Real:
    if base.value == 0 and exponent.value < 0:
        raise NoResult(f"0 ^ ({exponent}) would divide by zero, so it has no value.")
    if exponent.value.denominator == 1 and exponent.exact and not base.exact:
        size = _irrational_power(Real(abs(base.value), exact=False), exponent)
        return Real(-size.value, exact=False) if base.value < 0 and exponent.value % 2 else size
    if exponent.value.denominator == 1 and exponent.exact:
        bits = max(abs(base.value.numerator).bit_length(), base.value.denominator.bit_length())
        if base.value not in (0, 1, -1) and (bits - 1) * abs(exponent.value.numerator) > _BITS:
            raise _too_long(f"{_operand(base)} ^ {_operand(exponent)}")
        return Real(Fraction(base.value**exponent.value.numerator))
    if base.value < 0:
        raise NoResult(f"{_operand(base)} ^ {_operand(exponent)} is not a real number, so I leave it out.")
    if exponent.exact and exponent.value.denominator in {2, 3}:
        root = _root(base, exponent.value.denominator)
        return _power(root, Real(Fraction(exponent.value.numerator)))
    return _irrational_power(base, exponent)


def _irrational_power(base: Real, exponent: Real) -> Real:
    context = Context(prec=_DIGITS_KEPT, Emax=MAX_DIGITS, Emin=-MAX_DIGITS)
    try:
        result = context.power(_decimal(base.value, context), _decimal(exponent.value, context))
        return Real(Fraction(result), exact=False)
    except (DecimalException, OverflowError, ValueError):
        raise _too_long(f"{_operand(base)} ^ {_operand(exponent)}") from None


def _decimal(value: Fraction, context: Context) -> Decimal:
    return context.divide(Decimal(value.numerator), Decimal(value.denominator))


def _apply(name: str, operand: Real) -> Real:
    match name:
        case "sqrt":
            return _root(operand, 2)
        case "cbrt":
            return _root(operand, 3)
        case "factorial":
            return _factorial(operand)
        case _:
            return Real(abs(operand.value), operand.exact)


def _root(operand: Real, degree: int) -> Real:
    """The exact root where there is one, else one that is right to 60 digits."""
    value = abs(operand.value)
    if operand.value < 0 and degree == 2:
        raise NoResult(f"No real number squared gives {operand}, so sqrt({operand}) is not a real number.")
    sign = -1 if operand.value < 0 else 1
    above, below = _whole_root(value.numerator, degree), _whole_root(value.denominator, degree)
    if operand.exact and above**degree == value.numerator and below**degree == value.denominator:
        return Real(sign * Fraction(above, below))
    scale = 10**_DIGITS_KEPT
    return Real(sign * Fraction(_whole_root(int(value * scale**degree), degree), scale), exact=False)


def _whole_root(value: int, degree: int) -> int:
    """The largest whole number whose `degree`-th power is at most `value` (Newton's method)."""
    if degree == 2:
        return math.isqrt(value)
    if value < 2:
        return value
    guess = 1 << -(-value.bit_length() // degree)
    while True:
        better = ((degree - 1) * guess + value // guess ** (degree - 1)) // degree
        if better >= guess:
            return guess
        guess = better


def _factorial(operand: Real) -> Real:
    number = operand.value
    if not operand.exact or number.denominator != 1 or number < 0:
        raise NoResult(f"A factorial needs a whole number that is not negative, and {operand} is not.")
    if number > MAX_FACTORIAL:
        raise _too_long(f"{number}!")
    return Real(Fraction(math.factorial(number.numerator)))


def _step(steps: list[str], written: str, result: Real) -> Real:
    """Checks the size, notes the step, and keeps irrational numbers from growing."""
    if max(abs(result.value.numerator).bit_length(), result.value.denominator.bit_length()) > _BITS:
        if result.exact:
            raise _too_long(written)
        result = _shortened(result)
    relation = "=" if result.exact else "is"
    steps.append(f"{written} {relation} {in_words(result)}")
    return result


def _shortened(number: Real) -> Real:
    context = Context(prec=_DIGITS_KEPT, Emax=MAX_DIGITS, Emin=-MAX_DIGITS)
    try:
        return Real(Fraction(_decimal(number.value, context)), exact=False)
    except DecimalException:
        raise _too_long("This") from None


def _too_long(written: str) -> NoResult:
    written = written if len(written) <= 80 else "The result"
    return NoResult(f"{written} would have more than {MAX_DIGITS} digits, which is more than I write out.")


def _operand(number: Real, *, first: bool = False) -> str:
    """The number as an operand: a negative one or a fraction needs brackets to stay true."""
    text = str(number)
    fraction = "/" in text or "*" in text
    return f"({text})" if fraction or (number.value < 0 and not first) else text
