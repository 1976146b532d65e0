"""Numbers as people read them: whole, decimal, or a fraction with what it is about."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Context, Decimal
from fractions import Fraction

MAX_DIGITS = 500
_MAX_DECIMALS = 15


@dataclass(frozen=True, slots=True)
class Real:
    """A number, and whether it is exact (a square root mostly is not)."""

    value: Fraction
    exact: bool = True

    @property
    def terminates(self) -> bool:
        """Whether a short decimal can write it without rounding."""
        return decimal_text(self.value) is not None

    def __str__(self) -> str:
        """The number without rounding where that is possible: ``4``, ``2.5``, ``1/3``."""
        if not self.exact:
            return rounded(self.value, significant=10)
        return decimal_text(self.value) or str(self.value)


def decimal_text(value: Fraction) -> str | None:
    """The exact decimal of `value`, or None where it never ends or is too long to read."""
    if value.denominator == 1:
        return str(value.numerator)
    scale = 10**_MAX_DECIMALS
    if scale % value.denominator:
        return None
    return scaled_text(value.numerator * (scale // value.denominator), _MAX_DECIMALS)


def scaled_text(digits: int, places: int) -> str:
    """`digits` with the point `places` from the right, without zeros at the end."""
    sign = "-" if digits < 0 else ""
    whole, part = divmod(abs(digits), 10**places)
    tail = f"{part:0{places}d}".rstrip("0")
    return f"{sign}{whole}.{tail}" if tail else f"{sign}{whole}"


def rounded(value: Fraction, *, significant: int = 5) -> str:
    """`value` to at least four decimals or `significant` digits: ``0.3333``, ``3.1429``."""
    if value == 0 or abs(value) < Fraction(1, 10**40):
        return "0"
    magnitude = _magnitude(value)
    if -6 <= magnitude < 16:
        places = max(significant - 1 - magnitude, 4) if magnitude >= 0 else significant - 2 - magnitude
        return scaled_text(round(value * 10**places), places)
    number = Context(prec=significant).divide(Decimal(value.numerator), Decimal(value.denominator))
    return f"{number:e}".replace("e+", " * 10^").replace("e-", " * 10^-")


def _magnitude(value: Fraction) -> int:
    """The power of ten of the first digit."""
    number = Context(prec=5).divide(Decimal(value.numerator), Decimal(value.denominator))
    return number.adjusted()


def in_words(number: Real) -> str:
    """The number for a sentence: ``1/3 (about 0.3333)``, ``about 1.414213562``, ``2.5``."""
    if not number.exact:
        return f"about {number}"
    if number.terminates:
        return str(number)
    return f"{number} (about {rounded(number.value)})"


def plural(count: int | Fraction, noun: str, nouns: str = "") -> str:
    """``1 day``, ``2 days``."""
    shown = in_words(Real(Fraction(count)))
    return f"{shown} {noun if count == 1 else nouns or noun + 's'}"
