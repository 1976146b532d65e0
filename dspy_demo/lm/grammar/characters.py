"""The characters that a reply may consist of, and the bounded texts made of them."""

from __future__ import annotations

from dspy_demo.lm.grammar.expression import (
    Exactly,
    Expression,
    OneOf,
    Repeated,
    choice,
    exactly_one,
    sequence,
)

#: What can be read, and the space. Not control characters, nor what Python takes for the end of a line
#: (`str.splitlines`, which ChatAdapter uses) or strips from a line (`str.strip`), nor lone surrogates.
PRINTABLE = OneOf(
    (
        (" ", "~"),
        ("\u00a1", "\u167f"),
        ("\u1681", "\u1fff"),
        ("\u200b", "\u2027"),
        ("\u202a", "\u202e"),
        ("\u2030", "\u205e"),
        ("\u2060", "\u2fff"),
        ("\u3001", "\ud7ff"),
        ("\ue000", "\ufffd"),
        ("\U00010000", "\U0010ffff"),
    ),
    typical="…",
)
VISIBLE = PRINTABLE.without(" ")
DIGIT = OneOf((("0", "9"),), "0")
#: How far a line of a free text may be indented.
INDENT_MAX = 8
#: llama.cpp refuses more repetitions than 2000; an end that far away need not be written.
COUNTED_MAX = 2000
#: Shorter texts say nothing.
TEXT_MIN_CHARS = 12


def free_text(most_chars: int, *, forbidden: str = "") -> Expression:
    """Lines of text, not blank, none of which looks like the header of a field (``[[ ## name ## ]]``).

    Args:
        forbidden: Characters that the format keeps for itself.
    """
    character = PRINTABLE.without(forbidden)
    visible = VISIBLE.without(forbidden)
    beginning = choice(
        visible.without("["),
        sequence(Exactly("["), visible.without("[")),
    )
    next_line = sequence(Repeated(Exactly("\n"), 1, 2), Repeated(Exactly(" "), 0, INDENT_MAX), beginning)
    return sequence(beginning, Repeated(choice(character, next_line), 0, counted(most_chars - 1)))


def json_string(most_chars: int, *, least: int = 0, most: int | None = None) -> Expression:
    """A JSON string of `least` to `most` characters, as far as `most_chars` allows."""
    character = choice(PRINTABLE.without('"\\'), exactly_one(("\\n", '\\"', "\\\\", "\\t")))
    room = max(most_chars, TEXT_MIN_CHARS, least)
    limit = room if most is None else min(room, most)
    return sequence(Exactly('"'), Repeated(character, least, counted(limit)), Exactly('"'))


def counted(most: int) -> int | None:
    return None if most > COUNTED_MAX else max(most, 0)
