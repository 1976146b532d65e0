"""Capitals: of a country, and the country of a capital."""

from __future__ import annotations

import re
import unicodedata

from dspy_demo.lm.rules.capital_table import COUNTRIES, MORE_CAPITALS, NOTES, WITH_ARTICLE
from dspy_demo.lm.rules.reply import Reply

_OF_COUNTRY = re.compile(
    r"\b(?:capitals?(?: city| cities)?|seat of government) (?:of|for|in) "
    r"(?:the country (?:of )?)?(?P<name>.+)$"
)
_POSSESSIVE = re.compile(r"^(?:what is |what's |name |tell me )?(?P<name>.+?)'s? capital(?: city)?$")
_TRAILING = re.compile(r"\bcapital (?:is|does) (?P<name>.+?)(?: have)?$")
_OF_CAPITAL = re.compile(
    r"\b(?:which|what|whose) (?:country|nation|state)?(?:'s)?\s*(?:has|have|is|does)?\s*(?:the\s+)?"
    r"(?:capital(?: city)?\s+(?:is\s+|called\s+|named\s+|of which is\s+)?|with capital\s+)?(?P<name>.+?)"
    r"(?: (?:as )?(?:its |the |a )?capital(?: city)?(?: of)?)$"
)
_WHOSE = re.compile(r"\bwhose capital(?: city)? is (?P<name>.+)$")
_HAS_CAPITAL = re.compile(
    r"\b(?:which|what) (?:country|nation)(?:'s)? (?:has (?:the |as its )?)?capital(?: city)?,? "
    r"(?:is |called |named )?(?P<name>.+)$"
)
_CAPITAL_OF_WHAT = re.compile(
    r"^(?P<name>.+?) is (?:the )?capital(?: city)? of (?:which|what)(?: country)?$|"
    r"\bof (?:which|what) country is (?P<other>.+?) (?:the )?capital(?: city)?$"
)
_CLAIM = re.compile(r"^is (?P<city>.+?) (?:the )?capital(?: city)? of (?P<country>.+)$")
_TAIL = re.compile(r"[\s?.!]+$|,? please[\s?.!]*$|,? (?:called|named)[\s?.!]*$")


def plain(text: str) -> str:
    """`text` as names are looked up: lower case, no accents, no article, no punctuation."""
    text = unicodedata.normalize("NFKD", text.lower().replace("’", "'").replace("ʻ", "'"))
    text = "".join(letter for letter in text if not unicodedata.combining(letter)).replace("&", " and ")
    text = re.sub(r"[^a-z' ]", " ", text.replace(".", "")).replace("'", "")
    text = re.sub(r"\bst\b", "saint", text)
    return re.sub(r"^the ", "", re.sub(r"\s+", " ", text).strip())


_BY_COUNTRY = {
    plain(name): place
    for place, (country, aliases, _, _) in enumerate(COUNTRIES)
    for name in (country, *aliases)
}


def _places_of_capitals() -> dict[str, list[int]]:
    places: dict[str, list[int]] = {}
    for place, (_, _, capital, spellings) in enumerate(COUNTRIES):
        for name in (capital, *spellings):
            places.setdefault(plain(name), []).append(place)
    for name, country in MORE_CAPITALS.items():
        places.setdefault(plain(name), []).append(_BY_COUNTRY[plain(country)])
    return places


_BY_CAPITAL = _places_of_capitals()


def is_country(name: str) -> bool:
    return plain(name) in _BY_COUNTRY


def is_capital(name: str) -> bool:
    return plain(name) in _BY_CAPITAL


def answer_capital(question: str) -> Reply | None:
    """The answer to a question about capitals, or None where it is about something else."""
    text = re.sub(r"\s+", " ", question.lower().replace("’", "'")).strip()
    if "capital" not in text and "seat of government" not in text:
        return None
    text = _trimmed(text)
    claim = _CLAIM.search(text)
    if claim and is_country(claim["country"]):
        return _judge(claim["city"], claim["country"])
    for pattern in (_CAPITAL_OF_WHAT, _WHOSE, _HAS_CAPITAL, _OF_CAPITAL):
        match = pattern.search(text)
        name = next((group for group in match.groups() if group), "") if match else ""
        if is_capital(name):
            return country_of(name)
    for pattern in (_OF_COUNTRY, _POSSESSIVE, _TRAILING):
        match = pattern.search(text)
        if match:
            return capital_of(match["name"])
    return None


def capital_of(name: str) -> Reply | None:
    """The capital of the country `name`, or a sentence that says it is not a country I know."""
    place = _BY_COUNTRY.get(plain(_trimmed(name)))
    if place is None:
        shown = _trimmed(name)[:60]
        if not shown or len(shown.split()) > 6 or re.search(r"\d", shown):
            return None
        sentence = f'I know the capitals of all countries, but "{shown}" is not a country on my list.'
        return Reply(
            sentence, (f'I looked up "{shown}" in my list of countries and did not find it.',), "capitals"
        )
    country, _, capital, _ = COUNTRIES[place]
    sentence = NOTES.get(country, f"The capital of {_named(country)} is {capital}.")
    steps = (
        f"The question asks for the capital of {_named(country)}.",
        f"In my list of countries: {sentence}",
    )
    return Reply(sentence, steps, "capitals", capital, country, "What is the capital of {}?")


def country_of(name: str) -> Reply:
    """The country whose capital is `name`, which must be one."""
    places = list(dict.fromkeys(_BY_CAPITAL[plain(name)]))
    countries = [COUNTRIES[place][0] for place in places]
    country = countries[0]
    shown = _spelling(name, places[0])
    if len(countries) > 1:
        sentence = f"{shown} is the capital of {' and of '.join(map(_named, countries))}."
    elif country in NOTES:
        sentence = f"{shown} belongs to {_named(country)}. {NOTES[country]}"
    else:
        sentence = f"{shown} is the capital of {_named(country)}."
    steps = (f"The question asks whose capital {shown} is.", f"In my list of countries: {sentence}")
    return Reply(sentence, steps, "capitals", country, shown, "Which country has the capital {}?")


def _judge(city: str, country_name: str) -> Reply | None:
    known = capital_of(country_name)
    if known is None:
        return None
    true = _BY_COUNTRY[plain(country_name)] in _BY_CAPITAL.get(plain(city), [])
    if known.subject in NOTES and plain(city) in plain(known.sentence):
        # The note qualifies what a plain yes or no would get wrong.
        return Reply(known.sentence, known.steps, "capitals", None, known.subject, known.frame)
    sentence = f"{'Yes' if true else 'No'}: {_as_clause(known.sentence)}"
    return Reply(sentence, known.steps, "capitals", true, known.subject, known.frame)


def _as_clause(sentence: str) -> str:
    return sentence[0].lower() + sentence[1:] if sentence.startswith("The ") else sentence


def _named(country: str) -> str:
    return f"the {country}" if country in WITH_ARTICLE else country


def _spelling(name: str, place: int) -> str:
    """The city as the list spells it."""
    _, _, capital, spellings = COUNTRIES[place]
    known = (capital, *spellings, *MORE_CAPITALS)
    if plain(name) in {plain(capital), *map(plain, spellings)}:
        return capital
    return next(spelling for spelling in known if plain(spelling) == plain(name))


def _trimmed(text: str) -> str:
    previous = None
    while previous != text:
        previous, text = text, _TAIL.sub("", text).strip(" \"'")
    return text
