"""Asks each rule in turn, in an order that keeps them out of each other's way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from dspy_demo.lm.rules.arithmetic import answer_arithmetic
from dspy_demo.lm.rules.capitals import answer_capital
from dspy_demo.lm.rules.clock import answer_time
from dspy_demo.lm.rules.dates import answer_date
from dspy_demo.lm.rules.followup import as_whole_question, needs_more, number_in
from dspy_demo.lm.rules.reply import Reply, Turn
from dspy_demo.lm.rules.talk import answer_small_talk, decline
from dspy_demo.lm.rules.text import answer_text
from dspy_demo.lm.rules.units import answer_units

MAX_QUESTION = 2_000
MAX_TURNS = 30


def answer(question: str, earlier: Sequence[Turn] = (), *, now: datetime) -> Reply:
    """The reply to `question` after the `earlier` turns of the same chat.

    Args:
        question: What was asked; one longer than `MAX_QUESTION` characters is declined.
        earlier: The chat so far, oldest first; follow-ups build on it.
        now: The time for "today" and "now", with its time zone.
    """
    previous = None
    for turn in earlier[-MAX_TURNS:]:
        previous = _remember(turn, previous, now)
    return _answer_after(question.strip(), previous, now)


def _remember(turn: Turn, previous: Reply | None, now: datetime) -> Reply | None:
    """What a follow-up can build on after `turn`. Small talk in between does not count."""
    reply = _answer_after(turn.question.strip(), previous, now)
    if reply.understood:
        return reply
    number = number_in(turn.answer)
    # Another model may have answered what no rule here understands.
    return Reply(turn.answer, (), "arithmetic", number, str(number)) if number is not None else previous


def _answer_after(question: str, previous: Reply | None, now: datetime) -> Reply:
    if len(question) > MAX_QUESTION:
        return decline()
    whole = as_whole_question(question, previous)
    reply = _ask_rules(whole, now) if whole else None
    if whole and reply:
        return replace(reply, question=whole)
    small_talk = answer_small_talk(question)
    if small_talk:
        return small_talk
    if previous is None and needs_more(question):
        sentence = (
            "There is no earlier result in this chat to go on with; please write the whole calculation."
        )
        return Reply(sentence, ("The question builds on an earlier result, and there is none.",), "talk")
    return replace(_ask_rules(question, now) or decline(), question=question)


def _ask_rules(question: str, now: datetime) -> Reply | None:
    # Dates before arithmetic: 2024-02-29 is a date, not 1993. Texts before capitals: "in capitals".
    return (
        answer_time(question, now=now)
        or answer_date(question, now=now)
        or answer_text(question)
        or answer_units(question)
        or answer_capital(question)
        or answer_arithmetic(question)
    )
