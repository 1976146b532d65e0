"""What a rule hands back: an answer, the true steps to it, and what a follow-up can build on."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

Topic = Literal["arithmetic", "units", "dates", "time", "capitals", "text", "talk"]
Value = Fraction | bool | str | tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class Reply:
    """One answered question.

    Attributes:
        sentence: The whole answer in a sentence.
        steps: How it was found, each step true by itself.
        topic: Which rule answered; ``talk`` where none of them understood the question.
        value: The bare result, for fields that are not text. None where there is none.
        subject: What the question was about (an expression, a country, a date, a text), in the
            form that a follow-up or a tool can use.
        frame: The question with ``{}`` in place of its subject, so that "and of Spain?" can be asked.
        question: The whole question that this answers, also where only a follow-up was asked.
    """

    sentence: str
    steps: tuple[str, ...]
    topic: Topic
    value: Value = None
    subject: str = ""
    frame: str = ""
    question: str = ""

    @property
    def understood(self) -> bool:
        return self.topic != "talk"


@dataclass(frozen=True, slots=True)
class Turn:
    """One earlier question of the chat, and the text it was answered with."""

    question: str
    answer: str = ""
