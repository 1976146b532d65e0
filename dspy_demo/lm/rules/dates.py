"""Questions about dates: weekdays, days between, days after and before, leap years, today."""

from __future__ import annotations

import calendar
import re
from datetime import date, datetime, timedelta
from fractions import Fraction

from dspy_demo.lm.rules.calendar_dates import (
    DATE,
    NoSuchDate,
    add_months,
    read_dates,
    read_month,
    spoken,
    weekday,
)
from dspy_demo.lm.rules.day_counts import count_between, count_until
from dspy_demo.lm.rules.numerals import plural
from dspy_demo.lm.rules.reply import Reply
from dspy_demo.lm.rules.words import with_digits

_UNIT = r"(?P<unit>business days|working days|weekdays|days?|weeks?|fortnights?|months?|years?)"
_LEAP = re.compile(
    r"\b(?:is|was|will|are)?\s*(?:the year )?(?P<year>\d{1,4})(?: be)? "
    r"(?:an? )?leap[ -]?year|leap[ -]?year\D*(?P<other>\d{1,4})"
)
_SHIFT = re.compile(
    rf"(?P<count>\d+)\s+{_UNIT}\s+(?P<way>after|from|before|later than|earlier than|"
    rf"since|past)\s+(?P<date>{DATE})"
)
_SHIFT_FROM = re.compile(rf"(?P<date>{DATE})\s*(?P<way>\+|-|plus|minus)\s*(?P<count>\d+)\s+{_UNIT}")
_SHIFT_NOW = re.compile(
    rf"\bin (?P<count>\d+)\s+{_UNIT}\b|(?P<ago>\d+)\s+(?P<unit2>days?|weeks?|months?|years?)\s+ago\b"
)
_WEEKDAY = re.compile(
    rf"\b(?:what|which)(?:'s)?\s+(?:is\s+|was\s+)?(?:the\s+)?(?:week\s?day|day)\b.*?"
    rf"(?P<date>{DATE})|\bweek\s?day\b.*?(?P<other>{DATE})|\bday of the week\b.*?"
    rf"(?P<third>{DATE})|(?P<fourth>{DATE}).*?\b(?:day of the week|week\s?day)\b"
)
_MONTH_LENGTH = re.compile(
    r"\bhow many days\b[a-z ]*?\b(?:in|does|has)\s+(?:the month of )?"
    r"(?P<month>[a-z]+)(?:\s+(?:of\s+)?(?P<year>\d{4}))?(?: have)?[ ?.!]*$"
)
_YEAR_LENGTH = re.compile(
    r"\bhow many days\b[a-z ]*?\b(?:in|does|has)\s+(?:the year )?(?P<year>\d{4})(?: have)?[ ?.!]*$"
)
_TODAY = re.compile(
    r"\b(?:what(?:'s| is)|which|tell me)\b[a-z' ]*\b(?:today'?s? date|date"
    r"(?: is it)?(?: today)?|day is (?:it|today)(?: today)?|day today)[ ?.!]*$"
    r"|^(?:today'?s date|what day is (?:it|today)|what is today|what's today|"
    r"the date(?: today)?|what year is it|what month is it)[ ?.!]*$"
)
_SECONDS_A_DAY = 86_400


def answer_date(question: str, *, now: datetime) -> Reply | None:
    """The answer to a question about dates, or None where it is about something else."""
    text = with_digits(question).replace("what's", "what is")
    today = now.date()
    try:
        return (
            _bare_date(text, today)
            or _leap_year(text)
            or count_between(text, today)
            or _shift(text, today)
            or count_until(text, today)
            or _length(text, today)
            or _today(text, now)
            or _weekday(text, today)
        )
    except NoSuchDate as error:
        return Reply(str(error), (str(error),), "dates")
    except OverflowError:
        sentence = "I only know the years 1 to 9999, and this leads beyond them."
        return Reply(sentence, (sentence,), "dates")


def _bare_date(text: str, today: date) -> Reply | None:
    """A date and nothing else, which is no subtraction and no division."""
    text = text.strip(" \"'?.!")
    if re.fullmatch(r"\d{1,2}/\d{1,2}/\d{4}", text):
        sentence = f"{text} means different days in different countries; please write it as year-month-day."
        return Reply(sentence, (sentence,), "dates")
    return _weekday(f"weekday of {text}", today) if re.fullmatch(r"\d{4}-\d\d?-\d\d?", text) else None


def _leap_year(text: str) -> Reply | None:
    match = _LEAP.search(text)
    if match is None:
        return None
    year = int(match["year"] or match["other"])
    leap = calendar.isleap(year) if year else True
    step = _leap_reason(year)
    sentence = f"{'Yes' if leap else 'No'}, {year} is {'' if leap else 'not '}a leap year: {step}"
    rule = "A leap year is divisible by 4, but a century only when it is divisible by 400."
    reason = f"{step[0].upper()}{step[1:]}"
    return Reply(sentence, (rule, reason), "dates", leap, str(year), "Is {} a leap year?")


def _leap_reason(year: int) -> str:
    if year % 400 == 0:
        return f"{year} = 400 * {year // 400}, so it is divisible by 400."
    if year % 100 == 0:
        return f"{year} is divisible by 100 but not by 400."
    if year % 4 == 0:
        return f"{year} = 4 * {year // 4}, and it is not a century."
    return f"{year} divided by 4 leaves {year % 4}."


def _shift(text: str, today: date) -> Reply | None:
    if match := _SHIFT.search(text):
        (start,) = read_dates(today, match["date"])
        back = match["way"] in {"before", "earlier than"}
        return _shifted(start, int(match["count"]), match["unit"], back=back)
    if match := _SHIFT_FROM.search(text):
        (start,) = read_dates(today, match["date"])
        return _shifted(start, int(match["count"]), match["unit"], back=match["way"] in {"-", "minus"})
    if not re.search(r"\b(?:what|which|when|date|day|will)\b", text):
        return None
    if match := _SHIFT_NOW.search(text):
        back = match["ago"] is not None
        return _shifted(
            today, int(match["ago"] or match["count"]), match["unit2"] or match["unit"], back=back
        )
    return None


def _shifted(start: date, count: int, unit: str, *, back: bool) -> Reply:
    unit = unit.rstrip("s")
    signed = -count if back else count
    if count > 4_000_000:
        raise OverflowError("beyond the calendar")
    if unit in {"business day", "working day", "weekday"}:
        result = _business_days(start, signed)
    elif unit in {"month", "year"}:
        result = add_months(start, signed * (12 if unit == "year" else 1))
    else:
        result = start + timedelta(days=signed * {"day": 1, "week": 7, "fortnight": 14}[unit])
    way = "before" if back else "after"
    steps = [f"The start is {spoken(start)}, a {weekday(start)}.", *_shift_steps(start, result, unit, count)]
    sentence = f"{plural(count, unit)} {way} {spoken(start)} is {weekday(result)}, {spoken(result)}."
    steps.append(f"{plural(count, unit)} {way} it is {spoken(result)}, a {weekday(result)}.")
    frame = f"What is {count} {unit}s {way} {{}}?"
    return Reply(sentence, tuple(steps), "dates", result.isoformat(), result.isoformat(), frame)


def _shift_steps(start: date, result: date, unit: str, count: int) -> list[str]:
    days = abs((result - start).days)
    if unit in {"week", "fortnight"}:
        return [f"{plural(count, unit)} = {plural(days, 'day')}."]
    if unit == "day" and count > 6:
        weeks, rest = divmod(count, 7)
        return [f"{count} days = {plural(weeks, 'week')} and {plural(rest, 'day')}."]
    if unit in {"month", "year"} and result.day != start.day:
        return [f"That month has no day {start.day}, so its last day counts."]
    if unit in {"business day", "working day", "weekday"}:
        return ["Saturdays and Sundays do not count; I know no public holidays."]
    return []


def _business_days(start: date, count: int) -> date:
    if abs(count) > 50_000:
        raise OverflowError("beyond the calendar")
    day, step, left = start, timedelta(days=1 if count > 0 else -1), abs(count)
    while left:
        day += step
        left -= day.weekday() < 5
    return day


def _length(text: str, today: date) -> Reply | None:
    if match := _YEAR_LENGTH.search(text):
        year = int(match["year"])
        days = 366 if calendar.isleap(year) else 365
        reason = f"It is {'' if days == 366 else 'not '}a leap year: {_leap_reason(year)}"
        return Reply(
            f"{year} has {days} days.",
            (reason,),
            "dates",
            Fraction(days),
            str(year),
            "How many days are in {}?",
        )
    match = _MONTH_LENGTH.search(text)
    month = read_month(match["month"]) if match else None
    if match is None or month is None:
        return None
    year = int(match["year"] or today.year)
    days = calendar.monthrange(year, month)[1]
    name = f"{calendar.month_name[month]} {year}"
    february = f"February follows the leap years: {_leap_reason(year)}"
    reason = february if month == 2 else f"{calendar.month_name[month]} has {days} days in every year."
    return Reply(
        f"{name} has {days} days.", (reason,), "dates", Fraction(days), name, "How many days are in {}?"
    )


def _today(text: str, now: datetime) -> Reply | None:
    if not _TODAY.search(text):
        return None
    today = now.date()
    sentence = f"Today is {weekday(today)}, {spoken(today)}."
    step = f"The clock of this computer says {now:%Y-%m-%d %H:%M}."
    return Reply(sentence, (step, sentence), "dates", today.isoformat(), today.isoformat())


def _weekday(text: str, today: date) -> Reply | None:
    match = _WEEKDAY.search(text)
    if match is None:
        return None
    named = next(group for group in match.groups() if group)
    (day,) = read_dates(today, named)
    tense = "was" if day < today else "is" if day == today else "will be"
    sentence = f"{spoken(day)} {tense} a {weekday(day)}."
    return Reply(
        sentence, _weekday_steps(day), "dates", weekday(day), day.isoformat(), "What day of the week is {}?"
    )


def _weekday_steps(day: date) -> tuple[str, ...]:
    """Counts from a Saturday everyone can check."""
    anchor = date(2000, 1, 1)
    days = (day - anchor).days
    weeks, rest = divmod(days, 7)
    distance = f"{plural(abs(days), 'day')} {'after' if days >= 0 else 'before'}"
    division = f"{days} = 7 * {weeks if weeks >= 0 else f'({weeks})'} + {rest}"
    return (
        "1 January 2000 was a Saturday.",
        f"{spoken(day)} is {distance} it.",
        f"{division}, so the weekday is {plural(rest, 'day')} on from Saturday.",
        f"That is {weekday(day)}.",
    )
