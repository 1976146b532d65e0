"""A program whose outputs have types that plain `json.dumps` does not know."""

import dataclasses
import datetime
import decimal
import enum
from typing import Literal

import dspy
import pydantic


class Mood(enum.Enum):
    positive = "positive"
    negative = "negative"


class Address(pydantic.BaseModel):
    city: str
    since: datetime.date


class Person(pydantic.BaseModel):
    name: str
    mood: Mood
    addresses: list[Address]


@dataclasses.dataclass
class Span:
    start: int
    end: int


class Describe(dspy.Signature):
    """Describe."""

    text: str = dspy.InputField()
    sentiment: Mood = dspy.OutputField()
    topic: Literal["billing", "support"] = dspy.OutputField()
    person: Person = dspy.OutputField()
    span: Span = dspy.OutputField()
    day: datetime.date = dspy.OutputField()
    at: datetime.datetime = dspy.OutputField()
    price: decimal.Decimal = dspy.OutputField()
    tags: list[str] = dspy.OutputField()
    score: int = dspy.OutputField()
    ratio: float = dspy.OutputField()
    ok: bool = dspy.OutputField()


program = dspy.Predict(Describe)
