"""How long it is between two dates."""

from __future__ import annotations

import re
from datetime import date
from fractions import Fraction

from dspy_demo.lm.rules.calendar_dates import DATE, add_months, read_dates, spoken
from dspy_demo.lm.rules.numerals import Real, in_words, plural
from dspy_demo.lm.rules.reply import Reply

_BETWEEN = re.compile(
    rf"\b(?:(?P<unit>days?|weeks?|months?|years?)|long|time) (?:are |is |were |was |"
    rf"there |it )*(?:between|from)\s+"
    rf"(?P<first>{DATE})\s+(?:and|to|until|till)\s+(?P<second>{DATE})"
)
_UNTIL = re.compile(
    rf"\b(?P<unit>days?|weeks?)\b[a-z ]*? (?P<way>until|till|to|before|since|from)\s+(?P<date>{DATE})[ ?.!]*$"
)


def count_between(text: str, today: date) -> Reply | None:
    """How many days, weeks, months or years there are between two dates."""
    match = _BETWEEN.search(text)
    if match is None:
        return None
    first, second = read_dates(today, match["first"], match["second"])
    unit = (match["unit"] or "days").rstrip("s")
    if unit in {"month", "year"}:
        return _whole_months(first, second, unit)
    return _count_days(first, second, unit)


def _count_days(first: date, second: date, unit: str) -> Reply:
    days = abs((second - first).days)
    early, late = sorted((first, second))
    steps = [
        f"From {spoken(early)} to {spoken(late)} are {plural(days, 'day')}, "
        "counting the last day but not the first."
    ]
    steps += _day_steps(early, late, days)
    value = Fraction(days)
    shown = plural(days, "day")
    if unit == "week":
        value = Fraction(days, 7)
        shown = plural(value, "week")
        steps.append(f"{days} / 7 = {in_words(Real(value))}.")
    verb = "is" if value == 1 else "are"
    sentence = f"Between {spoken(first)} and {spoken(second)} there {verb} {shown}."
    return Reply(
        sentence,
        tuple(steps),
        "dates",
        value,
        second.isoformat(),
        f"How many {unit}s between {first} and {{}}?",
    )


def _day_steps(early: date, late: date, days: int) -> list[str]:
    """The days left in the first year, those of the years between, and those of the last."""
    if early.year == late.year:
        start, end = early.timetuple().tm_yday, late.timetuple().tm_yday
        return [
            f"{spoken(early)} is day {start} of {early.year} and {spoken(late)} is day {end}.",
            f"{end} - {start} = {days}.",
        ]
    rest = (date(early.year, 12, 31) - early).days
    between = (date(late.year, 1, 1) - date(early.year + 1, 1, 1)).days
    last = late.timetuple().tm_yday
    middle = f"the years between have {between}, " if between else ""
    total = f"{rest} + {between} + {last}" if between else f"{rest} + {last}"
    return [
        f"{early.year} has {plural(rest, 'day')} left after the first date, "
        f"{middle}{late.year} has {last} up to the second.",
        f"{total} = {days}.",
    ]


def _whole_months(first: date, second: date, unit: str) -> Reply:
    early, late = sorted((first, second))
    months = (late.year - early.year) * 12 + late.month - early.month
    if add_months(early, months) > late:
        months -= 1
    count = months if unit == "month" else months // 12
    reached = add_months(early, months if unit == "month" else count * 12)
    rest = (late - reached).days
    left = f" and {plural(rest, 'day')}" if rest else ""
    verb = "is" if count == 1 else "are"
    sentence = f"Between {spoken(first)} and {spoken(second)} there {verb} {plural(count, unit)}{left}."
    steps = (
        f"{plural(count, unit)} after {spoken(early)} is {spoken(reached)}.",
        f"From there to {spoken(late)} it is {plural(rest, 'day')} more.",
    )
    return Reply(
        sentence,
        steps,
        "dates",
        Fraction(count),
        second.isoformat(),
        f"How many {unit}s between {first} and {{}}?",
    )


def count_until(text: str, today: date) -> Reply | None:
    """How many days or weeks there are until or since a date."""
    match = _UNTIL.search(text)
    if match is None:
        return None
    (day,) = read_dates(today, match["date"])
    if (
        match["way"] in {"until", "till", "to", "before"}
        and day < today
        and not re.search(r"\d{4}", match["date"])
    ):
        day = add_months(day, 12)
    return _count_days(today, day, match["unit"].rstrip("s"))
