"""Questions about a given text: counting, reversing, sorting, case, palindromes."""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction

from dspy_demo.lm.rules.numerals import plural
from dspy_demo.lm.rules.reply import Reply

_QUOTED = re.compile(r'"([^"]+)"|“([^”]+)”|«([^»]+)»|`([^`]+)`|(?:(?<=\s)|^)\'(.+?)\'(?=$|[\s?.!,])')
_LETTER_COUNT = re.compile(
    r"\b(?:how many(?: times)?|count(?: the)?|number of)\s+(?:does |the |of |is )*"
    r"(?:letters?\s+|characters?\s+)?[\"'“‘]?(?P<letter>[^\W_])[\"'”’]?(?:['’]?s|\s*letters?|\s*characters?)?\s+"
    r"(?:letters? )?(?:are there |are |is |there |do you see |occurs? |appears? |used )*(?:in|does|within)\s+"
    r"(?P<where>.+)$",
    re.I,
)
_KIND_COUNT = re.compile(
    r"\b(?:how many|count(?: the)?|number of)\s+"
    r"(?P<kind>letters|characters|vowels|consonants|words|sentences|digits)\b.*?"
    r"(?:\bin\b|\bof\b|\bdoes\b|:)\s*(?P<where>.+)$",
    re.I,
)
_LENGTH = re.compile(r"\b(?:how long is|length of|what is the length of)\s+(?P<where>.+)$", re.I)
_PALINDROME = re.compile(r"^(?:is|check (?:if|whether))\s+(?P<where>.+?)\s+(?:is )?an? palindrome", re.I)
_STATISTICS = re.compile(
    r"\b(?:text )?(?:statistics|stats|analy[sz]e|analysis)\b.*?(?:\bof\b|\bfor\b|\bon\b|:)\s*(?P<where>.+)$",
    re.I,
)
_CHANGES: tuple[tuple[str, re.Pattern[str]], ...] = (
    (
        "reverse words",
        re.compile(r"\breverse the (?:order of (?:the )?)?words (?:in|of)\s+(?P<where>.+)$", re.I),
    ),
    (
        "reverse",
        re.compile(
            r"\b(?:reverse|spell(?: out)?(?= .* backwards?)|write(?= .* backwards?)|say"
            r"(?= .* backwards?))\s+(?P<where>.+?)(?:\s+backwards?)?[?.!]*$",
            re.I,
        ),
    ),
    (
        "reverse",
        re.compile(
            r"^(?:what is |what's )?(?P<where>.+?)\s+(?:backwards?|reversed|"
            r"spelled backwards|in reverse)[?.!]*$",
            re.I,
        ),
    ),
    (
        "sort letters",
        re.compile(r"\b(?:sort|order|alphabeti[sz]e)\s+the letters\s+(?:in|of)\s+(?P<where>.+)$", re.I),
    ),
    (
        "sort",
        re.compile(
            r"\b(?:sort|alphabeti[sz]e|put in order|order)\b(?: (?:these|the|following|words|"
            r"numbers|list|items|alphabetically|in alphabetical order|ascending))*\s*(?:in|"
            r"of)?\s*:?\s*(?P<where>.+?)(?: alphabetically| in (?:alphabetical|"
            r"ascending) order)?[?.!]*$",
            re.I,
        ),
    ),
    (
        "upper",
        re.compile(
            r"\b(?:write|put|convert|make|change|turn|what is)\s+(?P<where>.+?)\s+(?:in|to|"
            r"into)?\s*(?:all )?(?:upper\s?-?case|capital letters|capitals|caps)\b",
            re.I,
        ),
    ),
    (
        "lower",
        re.compile(
            r"\b(?:write|put|convert|make|change|turn|what is)\s+(?P<where>.+?)\s+(?:in|to|"
            r"into)?\s*(?:all )?(?:lower\s?-?case|small letters)\b",
            re.I,
        ),
    ),
    ("upper", re.compile(r"\b(?:upper\s?-?case|capitali[sz]e)\s+(?P<where>.+)$", re.I)),
    ("lower", re.compile(r"\blower\s?-?case\s+(?P<where>.+)$", re.I)),
)
_LEAD = re.compile(
    r"^(?:please |can you |could you |(?:the |this |these )?(?:english )?(?:words?|"
    r"text|sentence|phrase|string|following|"
    r"list|numbers|letters of|name)(?: is)?\b[\s:,]*)+",
    re.I,
)
# "the Bible", "my text": the text is described, not given.
_DESCRIBED = re.compile(r"(?:an?|the|my|your|his|her|our|their|all|every|some|this|that|it|out)\b", re.I)
_VOWELS = "aeiou"


def answer_text(question: str) -> Reply | None:
    """The answer to a question about a text, or None where there is none to work on."""
    question = question.strip()
    letter = _LETTER_COUNT.search(question)
    if letter:
        return _count_letter(letter["letter"], target(letter["where"]))
    kind = _KIND_COUNT.search(question)
    if kind:
        return _count_kind(kind["kind"].lower(), target(kind["where"]))
    palindrome = _PALINDROME.search(question)
    if palindrome:
        return _judge_palindrome(target(palindrome["where"]))
    statistics = _STATISTICS.search(question)
    if statistics:
        return _statistics(target(statistics["where"]))
    length = _LENGTH.search(question)
    if length and (
        _QUOTED.search(question) or re.search(r"\b(?:word|text|string|phrase|sentence)\b", question)
    ):
        return _count_kind("characters", target(length["where"]))
    for change, pattern in _CHANGES:
        match = pattern.search(question)
        if match:
            return _change(change, target(match["where"]))
    return None


def target(where: str) -> str:
    """The text itself: what is quoted, else what follows a colon, else the words after the request."""
    texts = ["".join(groups) for groups in _QUOTED.findall(where)]
    if texts:
        return max(texts, key=len)
    _, colon, after = where.partition(": ")
    text = re.sub(
        r"\s+(?:have|has|contains?|appears?|occurs?|in it)\s*[?.!]*$", "", (after if colon else where).strip()
    )
    bare = _LEAD.sub("", text)
    if not colon and bare == text and _DESCRIBED.match(bare):
        return ""
    return bare.strip().rstrip("?").rstrip("?" if " " in bare.strip() else ".!").strip("\"'“” ")


def _count_letter(letter: str, text: str) -> Reply | None:
    if not text:
        return None
    places = [place for place, char in enumerate(text.lower(), 1) if char == letter.lower()]
    sentence = f'The letter "{letter.lower()}" occurs {plural(len(places), "time")} in "{text}".'
    if len(text) <= 40:
        spelled = " ".join(char if char != " " else "_" for char in text)
        where = ", ".join(map(str, places))
        steps = [f"Spelled out, it is: {spelled}."]
        numbered = f"at position{'' if len(places) == 1 else 's'} {where}: {len(places)} in all"
        steps.append(f'"{letter.lower()}" is {numbered if places else "nowhere in it"}.')
    else:
        steps = [
            f'I went through all {len(text)} characters and counted each "{letter.lower()}": {len(places)}.'
        ]
    frame = f'How many "{letter.lower()}" are in "{{}}"?'
    return Reply(sentence, tuple(steps), "text", Fraction(len(places)), text, frame)


def _count_kind(kind: str, text: str) -> Reply | None:
    if not text:
        return None
    found = _PARTS[kind](text)
    count = len(found)
    singular = kind.removesuffix("s")
    sentence = f'"{text}" has {plural(count, singular)}.'
    shown = found if len(found) <= 40 else [*found[:39], "..."]
    listed = ", ".join(part for part in shown if part.strip()) or "none"
    step = f"The {kind} are: {listed}." if count else f"There are no {kind} in it."
    frame = f'How many {kind} are in "{{}}"?'
    return Reply(sentence, (step, f"Counted: {count}."), "text", Fraction(count), text, frame)


_PARTS: dict[str, Callable[[str], list[str]]] = {
    "letters": lambda text: [char for char in text if char.isalpha()],
    "characters": list,
    "vowels": lambda text: [char for char in text if char.lower() in _VOWELS],
    "consonants": lambda text: [char for char in text if char.isalpha() and char.lower() not in _VOWELS],
    "digits": lambda text: [char for char in text if char.isdigit()],
    "words": lambda text: re.findall(r"[^\W_]+(?:['’-][^\W_]+)*", text),
    "sentences": lambda text: [part for part in re.split(r"(?<=[.!?])\s+", text.strip()) if part],
}


def _judge_palindrome(text: str) -> Reply | None:
    letters = "".join(char.lower() for char in text if char.isalnum())
    if not letters:
        return None
    true = letters == letters[::-1]
    sentence = f'{"Yes" if true else "No"}, "{text}" is {"" if true else "not "}a palindrome.'
    steps = (
        f"Only letters and digits count: {letters}.",
        f"Backwards that is {letters[::-1]}, which is {'the same' if true else 'different'}.",
    )
    return Reply(sentence, steps, "text", true, text, 'Is "{}" a palindrome?')


def _statistics(text: str) -> Reply | None:
    if not text:
        return None
    counts = {kind: len(_PARTS[kind](text)) for kind in ("characters", "letters", "words", "sentences")}
    listed = ", ".join(plural(count, kind.removesuffix("s")) for kind, count in counts.items())
    sentence = f"The text has {listed}."
    return Reply(sentence, (f"Counted in the text: {listed}.",), "text", Fraction(counts["words"]), text)


def _change(change: str, text: str) -> Reply | None:
    if not text or (change in {"reverse", "upper", "lower"} and len(text) > 5000):
        return None
    if change == "sort":
        return _sort(text)
    made, how, frame = {
        "reverse": (text[::-1], "read from the last character to the first", 'Reverse "{}"'),
        "reverse words": (" ".join(reversed(text.split())), "with its words from last to first", ""),
        "sort letters": (
            "".join(sorted(text.replace(" ", ""), key=str.lower)),
            "with its letters in order",
            "",
        ),
        "upper": (text.upper(), "in upper case", 'Write "{}" in upper case'),
        "lower": (text.lower(), "in lower case", 'Write "{}" in lower case'),
    }[change]
    said = {"reverse": "reversed", "upper": "in upper case", "lower": "in lower case"}.get(change, how)
    sentence = f'"{text}" {said} is "{made}".'
    return Reply(
        sentence,
        (f'The text is "{text}".', f'{how[0].upper()}{how[1:]}, it is "{made}".'),
        "text",
        made,
        text,
        frame,
    )


def _sort(text: str) -> Reply | None:
    items = [item.strip() for item in re.split(r",\s*(?:and\s+)?|;|\s+and\s+|\n", text) if item.strip()]
    listed = len(items) > 1
    if not listed:
        items = text.split()
    if len(items) < 2:
        return _change("sort letters", text) if text.isalpha() else None
    try:
        ordered = sorted(items, key=Fraction)
        how = "from the smallest to the largest"
    except (ValueError, ZeroDivisionError):
        if not listed:
            return None
        ordered = sorted(items, key=str.lower)
        how = "in alphabetical order"
    sentence = f"Sorted {how}: {', '.join(ordered)}."
    steps = (f"There are {len(items)} items: {', '.join(items)}.", f"I put them {how}.")
    return Reply(sentence, steps, "text", tuple(ordered), ", ".join(items), "Sort these words: {}")
