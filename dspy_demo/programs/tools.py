"""The tools of the ReAct program. Each one is bounded, pure and safe with any text."""

from __future__ import annotations

import re
from datetime import datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from dspy_demo.lm.rules.evaluation import NoResult, evaluate
from dspy_demo.lm.rules.expression import Malformed, NotArithmetic, parse


def calculator(expression: str) -> str:
    """Evaluate an arithmetic expression exactly, for example "(2 + 3) * 4 / 7" or "15% of 80"."""
    try:
        value, _ = evaluate(parse(expression))
    except (NotArithmetic, Malformed, NoResult) as error:
        return f"Cannot calculate that: {error}"
    return str(value)


def current_time(timezone: str) -> str:
    """The date and time now in an IANA time zone, for example "Europe/Paris", "Asia/Tokyo" or "UTC"."""
    try:
        zone = ZoneInfo(timezone.strip())
    except (ZoneInfoNotFoundError, ValueError, OSError):
        wanted = timezone.strip().replace(" ", "_").casefold()
        near = sorted(name for name in available_timezones() if wanted and wanted in name.casefold())
        hint = f" Did you mean {', '.join(near[:3])}?" if near else ""
        return f"There is no time zone named {timezone[:60]!r}.{hint}"
    return datetime.now(zone).strftime("%A, %Y-%m-%d %H:%M:%S %Z")


def text_statistics(text: str) -> str:
    """Count the characters, letters, words, sentences and lines of a text."""
    words = re.findall(r"[\w'’-]+", text)
    sentences = [part for part in re.split(r"[.!?]+(?:\s|$)", text) if part.strip()]
    return (
        f"{len(text)} characters, {sum(letter.isalpha() for letter in text)} letters, {len(words)} words, "
        f"{len(sentences)} sentences, {len(text.splitlines())} lines"
    )
