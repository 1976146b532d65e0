"""Regular expressions over characters that can be written as GBNF, followed, and completed.

GBNF is the grammar format of llama.cpp. A runtime can be cut short by its token limit, so an expression
also knows how to go on from a prefix: `completion` is the shortest text that makes it whole. It is found by
derivatives (Brzozowski 1964): the derivative after a character is what may follow it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import cached_property

#: What the runtime puts where bytes are no UTF-8: as many as bytes, which were fewer characters to it.
REPLACEMENT = "\ufffd"


class Expression:
    """A set of texts. Not an abstract base class: asking what it is is slower there, and done a lot."""

    @property
    def shortest(self) -> str | None:
        """The shortest of its texts, None where it has none."""
        raise NotImplementedError

    @property
    def optional(self) -> bool:
        """Whether the empty text is one of them."""
        raise NotImplementedError

    def after(self, character: str) -> Expression:
        """What may follow `character`."""
        raise NotImplementedError

    def gbnf(self, rules: Rules) -> str:
        """The right side of a GBNF rule; parts may become `rules` of their own."""
        raise NotImplementedError

    def grammar(self) -> str:
        """A whole GBNF grammar."""
        rules = Rules()
        return f"root ::= {self.gbnf(rules)}\n{rules}"

    def completion(self, prefix: str) -> str | None:
        """The shortest text that makes `prefix` one of this expression's, None where nothing can."""
        rest = self
        for character in prefix:
            rest = rest.after(character)
        return rest.shortest

    @cached_property
    def _hash(self) -> int:
        return hash((type(self), *(getattr(self, field.name) for field in fields(self))))  # type: ignore[arg-type]

    def hash(self) -> int:
        """Computed once: expressions are keys, and large."""
        return self._hash

    def matches(self, text: str) -> bool:
        rest = self
        for character in text:
            rest = rest.after(character)
        return rest.optional


class Rules:
    """Rules with names. Equal expressions share one.

    llama.cpp (b11549) limits repetitions by the number of symbols within; a name is one symbol.
    """

    def __init__(self) -> None:
        self._names: dict[Expression, str] = {}
        self._lines: list[str] = []

    def name(self, expression: Expression) -> str:
        if expression not in self._names:
            name = self._names[expression] = f"r{len(self._names)}"
            self._lines.append(f"{name} ::= {expression.gbnf(self)}\n")
        return self._names[expression]

    def __str__(self) -> str:
        return "".join(self._lines)


@dataclass(frozen=True)
class Exactly(Expression):
    """This text."""

    __hash__ = Expression.hash

    text: str

    @property
    def shortest(self) -> str:
        return self.text

    @property
    def optional(self) -> bool:
        return not self.text

    def after(self, character: str) -> Expression:
        return Exactly(self.text[1:]) if self.text[:1] == character else NEVER

    def gbnf(self, rules: Rules) -> str:
        return '"' + "".join(_escaped(character) for character in self.text) + '"'


@dataclass(frozen=True)
class OneOf(Expression):
    """One character of these ranges, each with its first and last character."""

    __hash__ = Expression.hash

    ranges: tuple[tuple[str, str], ...]
    #: The one that stands for all where a text must be completed.
    typical: str

    @property
    def shortest(self) -> str:
        return self.typical

    @property
    def optional(self) -> bool:
        return False

    def after(self, character: str) -> Expression:
        return EMPTY if any(first <= character <= last for first, last in self.ranges) else NEVER

    def gbnf(self, rules: Rules) -> str:
        parts = (
            _escaped(first) if first == last else f"{_escaped(first)}-{_escaped(last)}"
            for first, last in self.ranges
        )
        return f"[{''.join(parts)}]"

    def without(self, characters: str) -> OneOf:
        """The same but for these characters."""
        ranges = list(self.ranges)
        for character in characters:
            ranges = [part for first, last in ranges for part in _split(first, last, character)]
        return OneOf(tuple(ranges), self.typical)


@dataclass(frozen=True)
class Sequence(Expression):
    """One after the other."""

    __hash__ = Expression.hash

    parts: tuple[Expression, ...]

    @cached_property
    def shortest(self) -> str | None:
        texts = [part.shortest for part in self.parts]
        return None if any(text is None for text in texts) else "".join(text or "" for text in texts)

    @cached_property
    def optional(self) -> bool:
        return all(part.optional for part in self.parts)

    def after(self, character: str) -> Expression:
        ways = []
        for index, part in enumerate(self.parts):
            ways.append(sequence(part.after(character), *self.parts[index + 1 :]))
            if not part.optional:
                break
        return choice(*ways)

    def gbnf(self, rules: Rules) -> str:
        return " ".join(
            rules.name(part) if isinstance(part, Choice | OneOf) else part.gbnf(rules) for part in self.parts
        )


@dataclass(frozen=True)
class Choice(Expression):
    """One or another."""

    __hash__ = Expression.hash

    options: tuple[Expression, ...]

    @cached_property
    def shortest(self) -> str | None:
        texts = [option.shortest for option in self.options]
        return min((text for text in texts if text is not None), key=len, default=None)

    @cached_property
    def optional(self) -> bool:
        return any(option.optional for option in self.options)

    def after(self, character: str) -> Expression:
        return choice(*(option.after(character) for option in self.options))

    def gbnf(self, rules: Rules) -> str:
        return " | ".join(option.gbnf(rules) for option in self.options)


@dataclass(frozen=True)
class Repeated(Expression):
    """The same again and again: at least `least` times, at most `most` times, None without a limit."""

    __hash__ = Expression.hash

    item: Expression
    least: int
    most: int | None

    @property
    def shortest(self) -> str | None:
        text = self.item.shortest
        return "" if self.least == 0 else None if text is None else text * self.least

    @property
    def optional(self) -> bool:
        return self.least == 0 or self.item.optional

    def after(self, character: str) -> Expression:
        if self.most == 0:
            return NEVER
        once = self.item.after(character)
        counts = character != REPLACEMENT or once != EMPTY
        most = self.most - 1 if self.most and counts else self.most
        return sequence(once, Repeated(self.item, max(0, self.least - 1), most))

    def gbnf(self, rules: Rules) -> str:
        count = f"{{{self.least},{'' if self.most is None else self.most}}}"
        return rules.name(self.item) + count


NEVER = Choice(())
EMPTY = Exactly("")


def sequence(*parts: Expression) -> Expression:
    """The parts one after the other, as simple as it can be written."""
    kept: list[Expression] = []
    for part in parts:
        if part == NEVER:
            return NEVER
        if part == EMPTY or (isinstance(part, Repeated) and part.most == 0):
            continue
        if isinstance(part, Sequence):
            kept.extend(part.parts)
        else:
            kept.append(part)
    return kept[0] if len(kept) == 1 else Sequence(tuple(kept)) if kept else EMPTY


def choice(*options: Expression) -> Expression:
    """One of the options, as simple as it can be written."""
    kept: dict[Expression, None] = {}
    for option in options:
        kept.update(dict.fromkeys(option.options if isinstance(option, Choice) else (option,)))
    return next(iter(kept)) if len(kept) == 1 else Choice(tuple(kept))


def exactly_one(texts: Iterable[str]) -> Expression:
    """One of these texts."""
    return choice(*(Exactly(text) for text in texts))


def maybe(*parts: Expression) -> Expression:
    return Repeated(sequence(*parts), 0, 1)


def _split(first: str, last: str, character: str) -> Iterable[tuple[str, str]]:
    if not first <= character <= last:
        yield first, last
        return
    if first < character:
        yield first, chr(ord(character) - 1)
    if character < last:
        yield chr(ord(character) + 1), last


def _escaped(character: str) -> str:
    """As GBNF writes it in strings and in brackets, in ASCII."""
    code = ord(character)
    if character.isascii() and (character.isalnum() or character in " ,:;.#!?{}()<>=_/*+'|&%$@~`"):
        return character
    return f"\\x{code:02X}" if code < 0x100 else f"\\u{code:04X}" if code < 0x10000 else f"\\U{code:08X}"
