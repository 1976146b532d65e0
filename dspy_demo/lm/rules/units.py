"""Conversions between units, exact by fractions."""

from __future__ import annotations

import re
from fractions import Fraction

from dspy_demo.lm.rules.numerals import Real, in_words, rounded
from dspy_demo.lm.rules.reply import Reply
from dspy_demo.lm.rules.unit_table import UNITS, Unit
from dspy_demo.lm.rules.words import with_digits

_NAMES = "|".join(re.escape(name) for name in sorted(UNITS, key=len, reverse=True))
_UNIT = rf"(?:{_NAMES})(?![a-z0-9^/])"
_NUMBER = r"-?(?:\d+(?:\.\d+)?(?:\s*/\s*\d+)?|\.\d+)"
_AMOUNT = rf"(?:(?P<number>{_NUMBER})\s*|(?:an?|one)\s+)(?P<unit>{_UNIT})"
_SECOND = rf"(?:\s*(?:and\s+)?(?P<more>{_NUMBER})\s*(?P<second>{_UNIT}))?"
_INTO = re.compile(
    rf"(?<![\w.]){_AMOUNT}{_SECOND}\s*(?:in|to|into|as|is how many|are how many|equals? how many|=)\s*"
    rf"(?:how many\s+)?(?:a\s+)?(?P<into>{_UNIT})"
)
_HOW_MANY = re.compile(
    rf"\bhow (?:many|much)\s+(?P<into>{_UNIT})\s+(?:are |is |there |does |do |make |"
    rf"makes |equal |equals |go |fit )*"
    rf"(?:in|into|to|for)?\s*(?:the\s+)?{_AMOUNT}{_SECOND}"
)


def answer_units(question: str) -> Reply | None:
    """The answer to a conversion question, or None where it is something else."""
    text = with_digits(question)
    match = _HOW_MANY.search(text) or _INTO.search(text)
    if match is None:
        return None
    try:
        amount = Fraction((match["number"] or "1").replace(" ", ""))
        more = Fraction((match["more"] or "0").replace(" ", ""))
    except ZeroDivisionError:
        return None
    source, into = UNITS[match["unit"]], UNITS[match["into"]]
    second = UNITS[match["second"]] if match["second"] else None
    if second is not None and (second.kind != source.kind or source.kind == "temperature"):
        return None
    if source.kind != into.kind:
        return _mismatch(source, into)
    if second is None:
        return convert(amount, source, into)
    return _convert_compound(amount, source, more, second, into)


def find_unit(name: str) -> Unit | None:
    return UNITS.get(name.strip().lower())


def convert(amount: Fraction, source: Unit, into: Unit) -> Reply:
    """`amount` of `source` in the unit `into`, which is of the same kind."""
    base = amount * source.size + source.offset
    result = (base - into.offset) / into.size
    given, found = _stated(amount, source), quantity(result, into)
    if source.kind == "temperature":
        steps = _temperature_steps(amount, source, result, into)
        if base < 0:
            sentence = (
                f"{given} does not exist: that is below absolute zero, which is -273.15 degrees Celsius."
            )
            return Reply(sentence, (*steps[:1], sentence), "units", None, given)
    else:
        steps = _scaling_steps(amount, source, result, into)
    return _converted(given, found, steps, result, source, into)


def _convert_compound(amount: Fraction, source: Unit, more: Fraction, second: Unit, into: Unit) -> Reply:
    total = amount + more * second.size / source.size
    given = f"{_stated(amount, source)} {_stated(more, second)}"
    result = total * source.size / into.size
    part = more * second.size / source.size
    first = f"1 {second.singular} = {Real(second.size / source.size)} {source.singular}."
    together = f"{_exact(amount)} + {_exact(part)} = {in_words(Real(total))} {source.plural}."
    steps = (first, together, *_scaling_steps(total, source, result, into))
    return _converted(given, quantity(result, into), steps, result, source, into)


def _converted(
    given: str, found: str, steps: tuple[str, ...], result: Fraction, source: Unit, into: Unit
) -> Reply:
    convention = into.note or source.note
    note = f" (with {convention})" if convention and into.kind != "data" else ""
    number = Real(result)
    exactly = "" if number.terminates else f" (exactly {result})"
    relation = "=" if number.terminates else "is"
    return Reply(
        f"{given} {relation} {found}{exactly}{note}.", steps, "units", result, given, f"{given} in {{}}"
    )


def quantity(amount: Fraction, unit: Unit) -> str:
    """``2.5 miles``, or ``about 3.1069 miles`` where the decimal never ends."""
    number = Real(amount)
    shown = str(number) if number.terminates else f"about {rounded(amount)}"
    return f"{shown} {unit.singular if amount == 1 else unit.plural}"


def _stated(amount: Fraction, unit: Unit) -> str:
    """The quantity as it was given: ``1/3 cups``, not what that is about."""
    return f"{Real(amount)} {unit.singular if amount == 1 else unit.plural}"


def _scaling_steps(amount: Fraction, source: Unit, result: Fraction, into: Unit) -> tuple[str, ...]:
    if source == into:
        return (f"Both are the same unit, so the number stays {in_words(Real(amount))}.",)
    factor = source.size / into.size
    notes = tuple(
        f"I take {unit.note}." for unit in dict.fromkeys((source, into)) if unit.note and unit.kind != "data"
    )
    rate = f"1 {source.singular} = {quantity(factor, into)}."
    if factor.numerator == 1 or not Real(factor).terminates:
        inverse = f"1 {into.singular} = {quantity(1 / factor, source)}."
        return (*notes, inverse, f"{_exact(amount)} / {_exact(1 / factor)} = {in_words(Real(result))}.")
    return (*notes, rate, f"{_exact(amount)} * {_exact(factor)} = {in_words(Real(result))}.")


def _exact(number: Fraction) -> str:
    text = str(Real(number))
    return f"({text})" if "/" in text else text


def _temperature_steps(amount: Fraction, source: Unit, result: Fraction, into: Unit) -> tuple[str, ...]:
    given, found = _exact(amount), in_words(Real(result))
    match source.singular, into.singular:
        case "degree Fahrenheit", "degree Celsius":
            return (
                "From Fahrenheit to Celsius: subtract 32, then multiply by 5/9.",
                f"{given} - 32 = {_exact(amount - 32)}; {_exact(amount - 32)} * 5/9 = {found}.",
            )
        case "degree Celsius", "degree Fahrenheit":
            scaled = _exact(amount * Fraction(9, 5))
            return (
                "From Celsius to Fahrenheit: multiply by 9/5, then add 32.",
                f"{given} * 9/5 = {scaled}; {scaled} + 32 = {found}.",
            )
        case "degree Celsius", "kelvin":
            return ("0 degrees Celsius is 273.15 kelvin.", f"{given} + 273.15 = {found}.")
        case "kelvin", "degree Celsius":
            return ("0 degrees Celsius is 273.15 kelvin.", f"{given} - 273.15 = {found}.")
        case "degree Fahrenheit", "kelvin":
            return (
                "From Fahrenheit to kelvin: add 459.67, then multiply by 5/9.",
                f"{given} + 459.67 = {_exact(amount + Fraction('459.67'))}; "
                f"{_exact(amount + Fraction('459.67'))} * 5/9 = {found}.",
            )
        case "kelvin", "degree Fahrenheit":
            return (
                "From kelvin to Fahrenheit: multiply by 9/5, then subtract 459.67.",
                f"{given} * 9/5 = {_exact(amount * Fraction(9, 5))}; "
                f"{_exact(amount * Fraction(9, 5))} - 459.67 = {found}.",
            )
    return (f"Both are the same unit, so the number stays {found}.",)


def _mismatch(source: Unit, into: Unit) -> Reply | None:
    sentence = (
        f"{source.plural[0].upper()}{source.plural[1:]} measure {source.kind} and {into.plural} measure "
        f"{into.kind}, so one cannot be converted into the other."
    )
    return Reply(sentence, (sentence,), "units")
