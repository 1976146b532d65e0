"""Follow-ups: "and times 3?", "and of Spain?", "in miles?" as whole questions of their own."""

from __future__ import annotations

import re
from fractions import Fraction

from dspy_demo.lm.rules.arithmetic import strip_asides
from dspy_demo.lm.rules.calendar_dates import DATE
from dspy_demo.lm.rules.capitals import is_capital, is_country
from dspy_demo.lm.rules.clock import find_zone
from dspy_demo.lm.rules.reply import Reply
from dspy_demo.lm.rules.units import find_unit
from dspy_demo.lm.rules.words import with_digits, with_symbols

_LEAD = re.compile(
    r"^(?:(?:and|now|then|so|ok|okay|what about|how about|what is|what's|what if you|"
    r"what if|if you|please|also|"
    r"can you|could you|next|again|but)\b[\s,]*)+",
    re.I,
)
_RESULT = re.compile(
    r"\b(?:it|that|this|the result|the answer|the last result|the previous (?:result|answer)|ans)\b"
)
_VERBS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"^(?:double|twice)(?: it| that| this| the result)?$"), "({}) * 2"),
    (re.compile(r"^triple(?: it| that| this| the result)?$"), "({}) * 3"),
    (re.compile(r"^(?:halve|half(?: of)?)(?: it| that| this| the result)?$"), "({}) / 2"),
    (re.compile(r"^(?:square|squared)(?: it| that| this| the result)?$"), "({}) ^ 2"),
    (re.compile(r"^(?:cube|cubed)(?: it| that| this| the result)?$"), "({}) ^ 3"),
    (re.compile(r"^negate(?: it| that| this)?$"), "-({})"),
    (re.compile(r"^(?:its |the )?square root(?: of it| of that)?$"), "sqrt({})"),
    (re.compile(r"^(?:its |the )?factorial(?: of it| of that)?$"), "factorial({})"),
    (re.compile(r"^add (?P<n>[^a-z]+)(?: to (?:it|that|this))?$"), "({}) + {n}"),
    (re.compile(r"^subtract (?P<n>[^a-z]+?)(?: from (?:it|that|this))?$"), "({}) - {n}"),
    (re.compile(r"^take away (?P<n>[^a-z]+)$"), "({}) - {n}"),
    (re.compile(r"^(?:multiply|multiplied)(?: it| that| this)? (?:by|with) (?P<n>[^a-z]+)$"), "({}) * {n}"),
    (re.compile(r"^(?:divide|divided)(?: it| that| this)? by (?P<n>[^a-z]+)$"), "({}) / {n}"),
    (
        re.compile(r"^(?:raise|raised)(?: it| that| this)? to(?: the power(?: of)?)? " r"(?P<n>[^a-z]+)$"),
        "({}) ^ {n}",
    ),
    (re.compile(r"^(?P<n>\d+(?:\.\d+)?) ?%(?: of (?:it|that|this|the result))?$"), "{n}% of ({})"),
)
_OPERATION = re.compile(
    r"^(?:it |that |this )?(?P<operator>\*\*|//|[+*/^]|-(?=\s|$)|mod\b|!)\s*(?P<rest>.*)$"
)
_OF = re.compile(r"^(?:of|for|in|with)\s+", re.I)
_NUMBER = re.compile(r"-?\d+(?:,\d{3})*(?:\.\d+)?(?:/\d+)?")
_CHANGE = re.compile(
    r"^(reverse|upper|lower|sort|palindrome|is (?:it|that) a palindrome|backwards|"
    r"reversed|in (?:upper|lower) ?case|uppercase|lowercase|sorted)"
)


def as_whole_question(question: str, previous: Reply | None) -> str | None:
    """The follow-up with what it leaves out, or None where `question` stands by itself."""
    if previous is None:
        return None
    text = _LEAD.sub("", question.strip()).rstrip("?!. ").strip() if _is_short(question) else ""
    if not text:
        return None
    return (
        _more_arithmetic(text, previous)
        or _another_place(text, previous)
        or _another_unit(text, previous)
        or _another_date(text, previous)
        or _another_text(text, previous)
    )


def needs_more(question: str) -> bool:
    """Whether `question` only makes sense after another one."""
    text = strip_asides(with_symbols(_LEAD.sub("", question)))
    return bool(
        re.match(
            r"^(?:\*\*|//|[*/^]|\+ )\s*\d+(?:\.\d+)?$|^(?:double|triple|halve|square) (?:it|that)$", text
        )
    )


def number_in(answer: str) -> Fraction | None:
    """The one number in an answer that another model gave, for "and times 3?"."""
    equation = answer.rpartition("=")[2] or answer
    found = _NUMBER.findall(equation)
    try:
        return Fraction(found[0].replace(",", "")) if len(found) == 1 else None
    except ZeroDivisionError:
        return None


def _is_short(question: str) -> bool:
    return len(question) <= 120


def _more_arithmetic(text: str, previous: Reply) -> str | None:
    if not isinstance(previous.value, Fraction) or isinstance(previous.value, bool):
        return None
    number = str(previous.value)
    plain = with_digits(text).replace(" per cent", "%").replace(" percent", "%")
    for pattern, form in _VERBS:
        match = pattern.match(plain)
        if match:
            return form.format(number, **match.groupdict())
    symbols = with_symbols(text)
    match = _OPERATION.match(symbols)
    if match and (match["rest"] or match["operator"] == "!"):
        return f"({number}) {symbols[match.start('operator') :]}"
    if _RESULT.search(symbols) and re.search(r"[\d+*/^]|sqrt|!", symbols):
        return _RESULT.sub(f"({number})", symbols)
    return None


def _another_place(text: str, previous: Reply) -> str | None:
    place = _OF.sub("", text).strip()
    if previous.topic == "capitals":
        if is_country(place):
            return f"What is the capital of {place}?"
        if is_capital(place):
            return f"Which country has the capital {place}?"
    if previous.topic == "time" and find_zone(text) and len(text.split()) <= 4:
        return f"What time is it in {place}?"
    return None


def _another_unit(text: str, previous: Reply) -> str | None:
    if previous.topic != "units" or not previous.frame:
        return None
    name = re.sub(
        r"^(?:in|to|into|as|how many|convert (?:it|that) (?:in)?to|(?:it|that) in)\s+", "", text.lower()
    )
    if find_unit(name):
        return previous.frame.format(name)
    amount = re.match(r"^-?\d+(?:\.\d+)?(?:\s*([a-z°].*))?$", with_digits(text))
    if amount and (amount[1] is None or find_unit(amount[1])):
        return _again(previous, with_digits(text))
    return None


def _again(previous: Reply, amount: str) -> str | None:
    """What "and 10?" asks for: the same conversion of another amount."""
    into = re.search(r"(?:=|is about) [-\d.]+ (?P<unit>[^.(]+?)(?: \(.*\))?\.$", previous.sentence)
    given = re.match(r"^[-\d./]+ (?P<unit>.+)$", previous.subject)
    if into is None or given is None:
        return None
    unit = "" if re.search(r"[a-z°]", amount) else f" {given['unit']}"
    return f"{amount}{unit} in {into['unit']}"


def _another_date(text: str, previous: Reply) -> str | None:
    if previous.topic != "dates":
        return None
    lowered = _OF.sub("", with_digits(text))
    if previous.frame and (
        re.fullmatch(DATE, lowered) or (re.fullmatch(r"\d{4}", lowered) and "year" in previous.frame)
    ):
        return previous.frame.format(lowered)
    shift = re.match(
        r"^(?P<n>\d+ (?:days?|weeks?|months?|years?)) (?P<way>later|after(?: that)?|"
        r"earlier|before(?: that)?)$",
        lowered,
    )
    if shift and re.fullmatch(r"\d{4}-\d\d-\d\d", previous.subject):
        way = "before" if shift["way"].startswith(("earlier", "before")) else "after"
        return f"What is {shift['n']} {way} {previous.subject}?"
    if re.fullmatch(r"(?:what |which )?(?:day of the week|weekday|day)(?: (?:is|was) (?:it|that))?", lowered):
        return f"What day of the week is {previous.subject}?"
    return None


def _another_text(text: str, previous: Reply) -> str | None:
    if previous.topic != "text" or not previous.subject or '"' in previous.subject:
        return None
    subject = f'"{previous.subject}"'
    lowered = text.lower()
    if _CHANGE.match(lowered):
        return _change_of(lowered, subject)
    letter = re.match(
        r"^(?:how many )?(?:the )?(?:letters? )?[\"'“]?(?P<letter>[a-z])[\"'”]?(?:'?s|"
        r" letters?)?(?: in it)?$",
        lowered,
    )
    if letter and "{}" in previous.frame and "How many" in previous.frame:
        return f'How many "{letter["letter"]}" are in {subject}?'
    kind = re.match(
        r"^(?:how many |the )?(letters|characters|vowels|consonants|words|sentences|"
        r"digits)(?: (?:are|does).*)?$",
        lowered,
    )
    if kind:
        return f"How many {kind[1]} are in {subject}?"
    word = re.match(r"^(?:in|of|with|for)?\s*(?:the word )?[\"'“]?(?P<word>[^\"”]+?)[\"'”]?$", text, re.I)
    if word and previous.frame and len(word["word"].split()) == 1:
        return previous.frame.format(word["word"])
    return None


def _change_of(change: str, subject: str) -> str:
    if "palindrome" in change:
        return f"Is {subject} a palindrome?"
    if "upper" in change or "lower" in change:
        return f"Write {subject} in {'upper' if 'upper' in change else 'lower'} case"
    if change.startswith("sort"):
        return f"Sort the letters of {subject}" if " " not in subject else f"Sort these words: {subject}"
    return f"Reverse {subject}"
