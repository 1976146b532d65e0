"""English words for numbers and operators, rewritten as symbols."""

from __future__ import annotations

import re

_UNITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven")
_TEENS = ("twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen")
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_SMALL = {word: number for number, word in enumerate(_UNITS + _TEENS)} | {
    word: 10 * (place + 2) for place, word in enumerate(_TENS)
}
_LARGE = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_NUMBER_WORD = "|".join([*_SMALL, "hundred", *_LARGE])
_NUMBER_WORDS = re.compile(rf"\b(?:{_NUMBER_WORD})(?:(?:[\s-]+(?:and\s+)?)(?:{_NUMBER_WORD}))*\b")
_DIGITS_AND_SCALE = re.compile(r"\b(\d+(?:\.\d+)?)\s+(hundred|thousand|million|billion|trillion)\b")
_A_SCALE = re.compile(r"\ban? (?=hundred|thousand|million|billion|trillion|dozen)")

_SYMBOLS = str.maketrans(
    {"×": "*", "·": "*", "⋅": "*", "∙": "*", "÷": "/", "−": "-", "–": "-", "’": "'", "‘": "'"}
    | {"“": '"', "”": '"', "⁄": "/", "²": "^2", "³": "^3", "π": " pi ", "√": " sqrt "}
    | {"½": " 1/2", "¼": " 1/4", "¾": " 3/4"}
)
_GROUPED = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")
_BETWEEN_DIGITS = re.compile(r"(?<=[\d)])\s*[x]\s*(?=[\d(.-])")

_OPERATORS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\bthe\b", " "),
        (r"\bsum of (.+?) and (.+)", r"(\1) + (\2)"),
        (r"\bproduct of (.+?) and (.+)", r"(\1) * (\2)"),
        (r"\bdifference (?:between|of) (.+?) and (.+)", r"(\1) - (\2)"),
        (r"\bquotient of (.+?) and (.+)", r"(\1) / (\2)"),
        (r"\bremainder (?:of|when) (.+?) (?:is )?divided by (.+)", r"(\1) mod (\2)"),
        (r"\bremainder of (.+?) / (.+)", r"(\1) mod (\2)"),
        (r"^add (.+?) (?:and|to) (.+)", r"(\1) + (\2)"),
        (r"^subtract (.+?) from (.+)", r"(\2) - (\1)"),
        (r"^multiply (.+?) (?:by|and|with) (.+)", r"(\1) * (\2)"),
        (r"^divide (.+?) by (.+)", r"(\1) / (\2)"),
        (r"\b(?:square root|sqrt) of\b", "sqrt"),
        (r"\b(?:cube root|cubic root|cbrt) of\b", "cbrt"),
        (r"\bfactorial of\b", "factorial"),
        (r"(?<=[\d)]) factorial\b", "!"),
        (r"\babsolute value of\b", "abs"),
        (r"\bhalf of\b", "1/2 of"),
        (r"\b(?:one|a) third of\b", "1/3 of"),
        (r"\b(?:one|a) quarter of\b", "1/4 of"),
        (r"\b(?:twice|double)\b", "2 *"),
        (r"\btriple\b", "3 *"),
        (r"\bpercent\b|\bper cent\b", "%"),
        (r"\b(?:to the power of|raised to the power of|raised to|to the power)\b", "^"),
        (r"\bsquared\b", "^2"),
        (r"\bcubed\b", "^3"),
        (r"\b(?:multiplied by|times)\b", "*"),
        (r"\b(?:divided by|over)\b", "/"),
        (r"\b(?:integer divided by|integer division by)\b", "//"),
        (r"\bmodulo\b", "mod"),
        (r"\bplus\b|\badded to\b", "+"),
        (r"\bminus\b", "-"),
        (r"\bnegative (?=[\d(])", "-"),
    )
)


#: "15% of 240, plus 3": a pause, not a list.
_COMMA_BEFORE_OPERATOR = re.compile(r",\s*(?=[-+*/^](?!\d))")


def with_digits(text: str) -> str:
    """`text` in lower case with plain symbols and with numbers as digits: "two hundred" -> "200"."""
    text = re.sub(r"\s+", " ", text.lower().translate(_SYMBOLS)).strip()
    text = _GROUPED.sub(lambda match: match[0].replace(",", ""), text)
    text = _A_SCALE.sub("one ", text).replace("one dozen", "12")
    text = _NUMBER_WORDS.sub(lambda match: str(_number(match[0])), text)
    return _DIGITS_AND_SCALE.sub(_scaled, text)


def with_symbols(text: str) -> str:
    """`text` with its operators as symbols too: "two plus two" -> "2 + 2"."""
    text = _BETWEEN_DIGITS.sub(" * ", with_digits(text))
    for pattern, replacement in _OPERATORS:
        text = pattern.sub(replacement, text)
    text = _COMMA_BEFORE_OPERATOR.sub(" ", text)
    return re.sub(r"\s+", " ", text).strip()


def _number(words: str) -> int:
    total = group = 0
    for word in re.split(r"[\s-]+", words):
        if word in _SMALL:
            group += _SMALL[word]
        elif word == "hundred":
            group = (group or 1) * 100
        elif word in _LARGE:
            total += (group or 1) * _LARGE[word]
            group = 0
    return total + group


def _scaled(match: re.Match[str]) -> str:
    factor = 100 if match[2] == "hundred" else _LARGE[match[2]]
    return f"({match[1]} * {factor})" if "." in match[1] else str(int(match[1]) * factor)
