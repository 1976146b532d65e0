"""Dates as people write them, read and written."""

from __future__ import annotations

import calendar
import re
from datetime import date, timedelta

MONTHS = [name.lower() for name in calendar.month_name]
WEEKDAYS = tuple(calendar.day_name)

_MONTH = "|".join([*MONTHS[1:], *(name[:3] for name in MONTHS[1:]), "sept"])
DATE = (
    rf"(?:\d{{4}}-\d{{1,2}}-\d{{1,2}}|\d{{4}}/\d{{1,2}}/\d{{1,2}}"
    rf"|(?:{_MONTH})\.?\s+(?:the\s+)?\d{{1,2}}(?:st|nd|rd|th)?(?:,?\s+(?:of\s+)?\d{{4}})?(?!\d)"
    rf"|\d{{1,2}}(?:st|nd|rd|th)?\s+(?:of\s+)?(?:{_MONTH})\.?(?:,?\s+\d{{4}})?(?!\d)"
    r"|the day after tomorrow|the day before yesterday|today|tomorrow|yesterday|now"
    r"|christmas(?: day)?(?:\s+\d{4})?|new year'?s(?: day)?(?:\s+\d{4})?)"
)
_ISO = re.compile(r"(\d{4})[-/](\d{1,2})[-/](\d{1,2})$")
_MONTH_FIRST = re.compile(
    rf"({_MONTH})\.?\s+(?:the\s+)?(\d{{1,2}})(?:st|nd|rd|th)?(?:,?\s+(?:of\s+)?(\d{{4}}))?$"
)
_DAY_FIRST = re.compile(rf"(\d{{1,2}})(?:st|nd|rd|th)?\s+(?:of\s+)?({_MONTH})\.?(?:,?\s+(\d{{4}}))?$")
_RELATIVE = {
    "today": 0,
    "now": 0,
    "tomorrow": 1,
    "yesterday": -1,
    "the day after tomorrow": 2,
    "the day before yesterday": -2,
}


class NoSuchDate(ValueError):
    """The text names a day that the calendar does not have; the message is a sentence."""


def read_date(text: str, today: date) -> date | None:
    """The date that `text` names as a whole; one without a year is in this year.

    Raises:
        NoSuchDate: It is written like a date, but there is no such day.
    """
    text = text.lower().strip(" .,?!")
    if text in _RELATIVE:
        return today + timedelta(days=_RELATIVE[text])
    if re.match(r"christmas|new year", text):
        year = re.search(r"\d{4}", text)
        month, day = (12, 25) if text.startswith("christmas") else (1, 1)
        return date(int(year[0]) if year else today.year, month, day)
    if match := _ISO.match(text):
        return _checked(int(match[1]), int(match[2]), int(match[3]))
    if match := _MONTH_FIRST.match(text):
        return _checked(int(match[3] or today.year), _month(match[1]), int(match[2]))
    if match := _DAY_FIRST.match(text):
        return _checked(int(match[3] or today.year), _month(match[2]), int(match[1]))
    return None


def read_dates(today: date, *texts: str) -> list[date]:
    """The dates of texts that each match `DATE`."""
    found = [read_date(text, today) for text in texts]
    return [day for day in found if day is not None]


def read_month(text: str) -> int | None:
    """The number of the month, or None where `text` is not one."""
    text = text.lower().strip(" .,?!")
    return _month(text) if re.fullmatch(_MONTH, text) else None


def _month(name: str) -> int:
    return next(number for number, full in enumerate(MONTHS) if full and full.startswith(name[:3]))


def _checked(year: int, month: int, day: int) -> date:
    if not 1 <= month <= 12:
        raise NoSuchDate(f"There is no month {month}: a year has 12.")
    if year < 1:
        raise NoSuchDate("I count years from 1 on.")
    last = calendar.monthrange(year, month)[1]
    if not 1 <= day <= last:
        name = calendar.month_name[month]
        raise NoSuchDate(f"There is no day {day} in {name} {year}: it has {last} days.")
    return date(year, month, day)


def spoken(day: date) -> str:
    """``3 March 2025``: the same for every reader, wherever they put the month."""
    return f"{day.day} {calendar.month_name[day.month]} {day.year}"


def weekday(day: date) -> str:
    return WEEKDAYS[day.weekday()]


def add_months(day: date, months: int) -> date:
    """The same day some months on; the last of the month where that month is shorter."""
    year, month = divmod(day.year * 12 + day.month - 1 + months, 12)
    if not 1 <= year <= 9999:
        raise OverflowError("year out of range")
    return date(year, month + 1, min(day.day, calendar.monthrange(year, month + 1)[1]))
