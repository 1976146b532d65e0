"""A small arithmetic language: text to tokens to a tree, without ever calling `eval`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

MAX_LENGTH = 400
MAX_DEPTH = 40
MAX_LITERAL = 60

FUNCTIONS = frozenset({"sqrt", "cbrt", "factorial", "abs"})
CONSTANTS = frozenset({"pi"})

_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d+(?:\.\d+)?|\.\d+)|(?P<name>[a-z]+)|(?P<symbol>\*\*|//|[-+*/^%!()]))", re.ASCII
)
_BINDING = {"+": 1, "-": 1, "*": 2, "/": 2, "//": 2, "mod": 2, "of": 2, "^": 4}
_UNARY, _POSTFIX, _ATOM = 3, 5, 6


class NotArithmetic(ValueError):
    """The text holds something that is not part of the language."""


class Malformed(ValueError):
    """The text is arithmetic, but not well formed. The message says where."""


@dataclass(frozen=True, slots=True)
class Number:
    value: Fraction


@dataclass(frozen=True, slots=True)
class Constant:
    name: str


@dataclass(frozen=True, slots=True)
class Prefix:
    """A minus sign or a function: ``-x``, ``sqrt(x)``."""

    operator: str
    operand: Node


@dataclass(frozen=True, slots=True)
class Suffix:
    """A percentage or a factorial: ``x%``, ``x!``."""

    operator: str
    operand: Node


@dataclass(frozen=True, slots=True)
class Binary:
    operator: str
    left: Node
    right: Node


Node = Number | Constant | Prefix | Suffix | Binary


def tokenize(text: str) -> list[str]:
    """The tokens of `text`.

    Raises:
        NotArithmetic: A character or a word is no part of the language.
        Malformed: It is longer than anyone writes by hand.
    """
    tokens: list[str] = []
    position = 0
    text = text.rstrip()
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise NotArithmetic(text[position:])
        name = match["name"]
        if name and name not in FUNCTIONS | CONSTANTS | {"mod", "of"}:
            raise NotArithmetic(name)
        if match["number"] and len(match["number"]) > MAX_LITERAL:
            raise Malformed(f"a number has more than {MAX_LITERAL} digits")
        tokens.append("^" if match["symbol"] == "**" else match[match.lastgroup or 0])
        position = match.end()
    if len(text) > MAX_LENGTH:
        raise Malformed(f"it is longer than {MAX_LENGTH} characters")
    return tokens


def parse(text: str) -> Node:
    """The tree of `text`; powers bind from the right, a minus sign less than a power.

    Raises:
        NotArithmetic: See `tokenize`.
        Malformed: An operand or a bracket is missing, or it is too long or too deep.
    """
    reader = _Reader(tokenize(text))
    tree = reader.sum()
    if reader.peek():
        raise Malformed(f'"{reader.peek()}" stands where an operator should be')
    return tree


class _Reader:
    """Recursive descent, one method for each level of precedence."""

    def __init__(self, tokens: list[str]) -> None:
        self._tokens = tokens
        self._next = 0
        self._depth = 0

    def peek(self, ahead: int = 0) -> str:
        place = self._next + ahead
        return self._tokens[place] if place < len(self._tokens) else ""

    def take(self) -> str:
        token = self.peek()
        self._next += 1
        return token

    def sum(self) -> Node:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise Malformed(f"it is nested more than {MAX_DEPTH} levels deep")
        left = self._product()
        while self.peek() in {"+", "-"}:
            operator = self.take()
            left = Binary(operator, left, self._product())
        self._depth -= 1
        return left

    def _product(self) -> Node:
        left = self._signed()
        while True:
            symbol = self.peek()
            if symbol in {"*", "/", "//", "mod", "of"}:
                left = Binary(self.take(), left, self._signed())
            elif symbol == "%":
                self.take()
                left = Binary("mod", left, self._signed())
            elif symbol == "(" or symbol in FUNCTIONS | CONSTANTS:
                left = Binary("*", left, self._signed())
            else:
                return left

    def _signed(self) -> Node:
        self._depth += 1
        if self._depth > 2 * MAX_DEPTH:
            raise Malformed("it has too many signs or powers in a row")
        if self.peek() == "-":
            self.take()
            signed: Node = Prefix("-", self._signed())
        elif self.peek() == "+":
            self.take()
            signed = self._signed()
        else:
            signed = self._power()
        self._depth -= 1
        return signed

    def _power(self) -> Node:
        base = self._postfix()
        if self.peek() != "^":
            return base
        self.take()
        return Binary("^", base, self._signed())

    def _postfix(self) -> Node:
        operand = self._atom()
        while self.peek() == "!" or (self.peek() == "%" and not self._starts_operand(self.peek(1))):
            operand = Suffix(self.take(), operand)
        return operand

    @staticmethod
    def _starts_operand(token: str) -> bool:
        return token[:1].isdigit() or token.startswith((".", "(")) or token in FUNCTIONS | CONSTANTS

    def _atom(self) -> Node:
        symbol = self.take()
        if symbol[:1].isdigit() or symbol.startswith("."):
            return Number(Fraction(symbol))
        if symbol in CONSTANTS:
            return Constant(symbol)
        if symbol in FUNCTIONS:
            if self.peek() == "of":
                self.take()
            return Prefix(symbol, self._signed() if self.peek() == "-" else self._power())
        if symbol == "(":
            inside = self.sum()
            if self.take() != ")":
                raise Malformed("a closing bracket is missing")
            return inside
        raise Malformed(
            f'a number is missing before "{symbol}"' if symbol else "a number is missing at the end"
        )


def operations(node: Node) -> int:
    """How many operations it takes to evaluate the tree."""
    match node:
        case Number() | Constant():
            return 0
        case Prefix("-", Number()):
            return 0
        case Prefix(_, operand) | Suffix(_, operand):
            return 1 + operations(operand)
        case Binary(_, left, right):
            return 1 + operations(left) + operations(right)


def render(node: Node, *, code: bool = False) -> str:
    """The tree as text with only the brackets it needs; `code` writes it as Python would."""
    return _render(node, code)[0]


def _render(node: Node, code: bool) -> tuple[str, int]:
    match node:
        case Number(value):
            return _literal(value), _ATOM
        case Constant(name):
            return name, _ATOM
        case Prefix("-", operand):
            return f"-{_bracketed(operand, _UNARY, code)}", _UNARY
        case Prefix(operator, operand):
            return f"{operator}({render(operand, code=code)})", _ATOM
        case Suffix("!", operand) if code:
            return f"factorial({render(operand, code=code)})", _ATOM
        case Suffix("%", operand) if code:
            return f"({_bracketed(operand, 2, code)} / 100)", _ATOM
        case Suffix(operator, operand):
            return f"{_bracketed(operand, _POSTFIX, code)}{operator}", _POSTFIX
        case Binary("+" | "-", left, Suffix("%", percent)) if code and not _is_percentage(left):
            share = f"{_bracketed(left, 2, code)} * {_bracketed(percent, 3, code)} / 100"
            return f"{_bracketed(left, 1, code)} {node.operator} {share}", 1
        case Binary(operator, left, right):
            level = _BINDING[operator]
            # A power binds from the right; everything else from the left.
            first = _bracketed(left, level + 1 if operator == "^" else level, code)
            second = _bracketed(right, _UNARY if operator == "^" else level + 1, code)
            second = f"({second})" if second.startswith("-") else second
            return f"{first} {_CODE[operator] if code else operator} {second}", level


_CODE = {"+": "+", "-": "-", "*": "*", "/": "/", "//": "//", "mod": "%", "of": "*", "^": "**"}


def _bracketed(node: Node, level: int, code: bool) -> str:
    text, binding = _render(node, code)
    return text if binding >= level else f"({text})"


def _literal(value: Fraction) -> str:
    if value.denominator == 1:
        return str(value.numerator)
    places = 0
    while (value * 10**places).denominator != 1:
        places += 1
    digits = f"{int(value * 10**places):0{places + 1}d}"
    return f"{digits[:-places]}.{digits[-places:]}"


def _is_percentage(node: Node) -> bool:
    return isinstance(node, Suffix) and node.operator == "%"
