"""Signatures of any output fields, and texts of an expression, for property tests."""

from __future__ import annotations

import enum
import random
from datetime import date
from typing import Any, Literal

import dspy
import pydantic
from hypothesis import strategies as st

from dspy_demo.lm.grammar.expression import Choice, Exactly, Expression, OneOf, Repeated, Sequence


class Part(pydantic.BaseModel):
    name: str
    size: int = pydantic.Field(ge=1, le=5)
    tags: list[str] = []


class Tree(pydantic.BaseModel):
    label: str = pydantic.Field(min_length=1, max_length=20)
    weight: float = pydantic.Field(ge=0, le=1)
    parent: Tree | None = None
    children: list[Tree] = []


class Aliased(pydantic.BaseModel):
    full_name: str = pydantic.Field(alias='full "name"\\é')
    born: date | None
    kind: Literal["a", 'b"', "ü\n"]
    pair: tuple[int, bool]


class Colour(enum.Enum):
    RED = "red"
    PADDED = " padded"


class Rank(enum.IntEnum):
    LOW = 1
    HIGH = 2


SIMPLE: tuple[Any, ...] = (
    str,
    int,
    float,
    bool,
    Literal["yes", "no"],
    Literal['say "yes"', "it's", " padded ", "", "[[ ## answer ## ]]"],
    Literal[1, 2.5, True, None, "three"],
    Colour,
    Rank,
    dspy.Reasoning,
)
DEEP: tuple[Any, ...] = (
    Part,
    Tree,
    Aliased,
    dict[str, Any],
    dict[str, int],
    Any,
    dspy.Code,
    int | bool,
)
NAMES = ("reasoning", "answer", "completed_at", "größe", "x", "日本", "next_tool_args")


def types(*leaves: Any) -> st.SearchStrategy[Any]:
    """These types, alone, in lists and optional, also nested."""
    return st.recursive(
        st.sampled_from(leaves),
        lambda inner: st.one_of(inner.map(lambda type_: list[type_]), inner.map(lambda type_: type_ | None)),
        max_leaves=3,
    )


def signatures(types: st.SearchStrategy[Any]) -> st.SearchStrategy[type[dspy.Signature]]:
    """One input, and up to four outputs of these types."""
    outputs = st.dictionaries(st.sampled_from(NAMES), types, min_size=1, max_size=4)
    return outputs.map(signature)


def signature(outputs: dict[str, Any]) -> type[dspy.Signature]:
    fields = {name: (annotation, dspy.OutputField()) for name, annotation in outputs.items()}
    return dspy.Signature({"question": (str, dspy.InputField()), **fields}, "Answer.")


NASTY = "[]\"\\{}#: <>&'…\u200b\ufffd\U0001f44d"


def text_of(expression: Expression, chance: random.Random) -> str:
    """One of the texts of an expression."""
    match expression:
        case Exactly(text):
            return text
        case OneOf(ranges):
            first, last = chance.choice(ranges)
            nasty = [character for character in NASTY if expression.after(character).optional]
            return (
                chance.choice(nasty)
                if nasty and chance.random() < 0.5
                else chr(chance.randint(ord(first), ord(last)))
            )
        case Sequence(parts):
            return "".join(text_of(part, chance) for part in parts)
        case Choice(options):
            return text_of(chance.choice(options), chance)
        case Repeated(item, least, most):
            count = chance.randint(least, min(least + 12, most if most is not None else least + 12))
            return "".join(text_of(item, chance) for _ in range(count))
    raise TypeError(expression)
