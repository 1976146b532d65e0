"""JSON values of a type as an expression: from the JSON schema that pydantic gives for it.

What a schema asks for beyond its form (a pattern, a sum) is not followed: such a type has no grammar.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticSchemaGenerationError, PydanticUserError

from dspy_demo.lm.grammar.characters import DIGIT, json_string
from dspy_demo.lm.grammar.expression import (
    Exactly,
    Expression,
    OneOf,
    Repeated,
    choice,
    exactly_one,
    maybe,
    sequence,
)

#: How many items a list has at most where its type does not say.
ITEMS_MAX = 8
#: A list is shorter where its items would get less room than this, in characters.
ITEM_MIN_CHARS = 40
#: How deep a type that contains itself goes, and a value of any type.
DEPTH_MAX = 3
ANY_DEPTH_MAX = 2
DIGITS_MAX = 9
#: A number with bounds is one of so many.
STEPS = 100
_UNSUPPORTED = ("pattern", "multipleOf", "not", "if", "uniqueItems", "patternProperties", "propertyNames")


class NoGrammar(Exception):
    """This type, or this adapter, has no grammar. The model then writes freely."""


class TooDeep(NoGrammar):
    """Here a type contains itself once too often; a list may be empty here, or a field left out."""


def json_value(annotation: Any, room: int) -> Expression:
    """The JSON texts of a value of this type.

    Args:
        room: How many characters it may have, roughly; lists and texts are bounded by it.

    Raises:
        NoGrammar: The type cannot be written as one.
    """
    try:
        schema = TypeAdapter(annotation).json_schema()
    except (
        PydanticInvalidForJsonSchema,
        PydanticSchemaGenerationError,
        PydanticUserError,
        TypeError,
    ) as error:
        raise NoGrammar(f"{annotation} has no JSON schema") from error
    return _Schema(schema.get("$defs", {})).value(schema, room, depth=0)


class _Schema:
    """Turns a schema into an expression; `definitions` are what its references name."""

    def __init__(self, definitions: Mapping[str, Any]) -> None:
        self._definitions = definitions

    def value(self, schema: Mapping[str, Any] | bool, room: int, depth: int) -> Expression:
        if schema is True or not (wanted := _wanted(schema)):
            return _anything(room, ANY_DEPTH_MAX)
        if "$ref" in wanted:
            name = str(wanted["$ref"]).rsplit("/", 1)[-1]
            if depth >= DEPTH_MAX:
                raise TooDeep(name)
            return self.value(self._definitions[name], room, depth + 1)
        if "const" in wanted or "enum" in wanted:
            return exactly_one(_json(value) for value in wanted.get("enum", [wanted.get("const")]))
        for one_of in ("anyOf", "oneOf"):
            if one_of in wanted:
                return self._some(wanted[one_of], room, depth)
        if len(wanted.get("allOf", ())) == 1:
            return self.value(wanted["allOf"][0], room, depth)
        if any(name in wanted for name in _UNSUPPORTED):
            raise NoGrammar("a constraint that a grammar cannot hold")
        match wanted.get("type"):
            case "string":
                return _string(wanted, room)
            case "integer" | "number" as kind:
                return _number(wanted, whole=kind == "integer")
            case "boolean":
                return exactly_one(("true", "false"))
            case "null":
                return Exactly("null")
            case "array":
                return self._array(wanted, room, depth)
            case "object":
                return self._object(wanted, room, depth)
        raise NoGrammar("an unknown kind of schema")

    def _some(self, schemas: list[Any], room: int, depth: int) -> Expression:
        """Those of the alternatives that can be written: a type that contains itself ends that way."""
        options = []
        for schema in schemas:
            try:
                options.append(self.value(schema, room, depth))
            except NoGrammar:
                continue
        if not options:
            raise NoGrammar("no alternative can be written")
        return choice(*options)

    def _array(self, schema: Mapping[str, Any], room: int, depth: int) -> Expression:
        if "prefixItems" in schema:
            items = schema["prefixItems"]
            parts = [self.value(item, room // len(items), depth) for item in items]
            return sequence(Exactly("["), *_separated(parts), Exactly("]"))
        least, limit = int(schema.get("minItems", 0)), int(schema.get("maxItems", ITEMS_MAX))
        most = max(least, min(limit, max(1, room // ITEM_MIN_CHARS), ITEMS_MAX))
        empty = [Exactly("[]")] if least == 0 else []
        if most == 0:
            return Exactly("[]")
        try:
            item = self.value(schema.get("items", True), room // most, depth)
        except TooDeep:
            if not empty:
                raise
            return Exactly("[]")
        more = Repeated(sequence(Exactly(", "), item), max(0, least - 1), most - 1)
        return choice(*empty, sequence(Exactly("["), item, more, Exactly("]")))

    def _object(self, schema: Mapping[str, Any], room: int, depth: int) -> Expression:
        properties: Mapping[str, Any] = schema.get("properties", {})
        if not properties:
            extra = schema.get("additionalProperties", True)
            if extra is False:
                return Exactly("{}")
            return _mapping(
                lambda space: self.value(extra, space, depth), room, int(schema.get("minProperties", 0))
            )
        members = []
        for name, inner in properties.items():
            try:
                member = self.value(inner, room // len(properties), depth)
            except TooDeep:
                if name in schema.get("required", ()):
                    raise
                continue  # left out: it has a default
            members.append(sequence(Exactly(_json(name) + ": "), member))
        return sequence(Exactly("{"), *_separated(members), Exactly("}"))


def _wanted(schema: Mapping[str, Any] | bool) -> Mapping[str, Any]:
    """A schema without what only describes."""
    if not isinstance(schema, Mapping):
        raise NoGrammar("a value that cannot be")
    describing = {"title", "description", "default", "examples", "$defs", "json_schema_extra", "deprecated"}
    return {name: value for name, value in schema.items() if name not in describing}


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _separated(parts: list[Expression]) -> list[Expression]:
    separated: list[Expression] = []
    for part in parts:
        separated += [Exactly(", "), part] if separated else [part]
    return separated


def _two_digits(first: int, last: int) -> Expression:
    return exactly_one(f"{number:02d}" for number in range(first, last + 1))


def _string(schema: Mapping[str, Any], room: int) -> Expression:
    day = sequence(
        OneOf((("1", "2"),), "2"), Repeated(DIGIT, 3, 3),
        Exactly("-"), _two_digits(1, 12), Exactly("-"), _two_digits(1, 28),
    )  # fmt: skip
    clock = sequence(_two_digits(0, 23), Exactly(":"), _two_digits(0, 59), Exactly(":"), _two_digits(0, 59))
    known = {"date": day, "time": clock, "date-time": sequence(day, Exactly("T"), clock, Exactly("Z"))}
    form = schema.get("format")
    if form in known:
        return sequence(Exactly('"'), known[form], Exactly('"'))
    if form is not None:
        raise NoGrammar(f"a text of the form {form}")
    return json_string(room, least=int(schema.get("minLength", 0)), most=schema.get("maxLength"))


def _number(schema: Mapping[str, Any], *, whole: bool) -> Expression:
    bounds = _bounds(schema, 1 if whole else 0.01)
    if bounds is not None:
        return exactly_one(_steps(*bounds, whole=whole))
    digits = choice(Exactly("0"), sequence(OneOf((("1", "9"),), "1"), Repeated(DIGIT, 0, DIGITS_MAX - 1)))
    fraction = () if whole else (maybe(Exactly("."), Repeated(DIGIT, 1, DIGITS_MAX)),)
    return sequence(maybe(Exactly("-")), digits, *fraction)


def _bounds(schema: Mapping[str, Any], step: float) -> tuple[float, float] | None:
    """The least and the greatest value, where there is either; the other one is near enough to count to."""
    least = schema.get("minimum", schema.get("exclusiveMinimum"))
    most = schema.get("maximum", schema.get("exclusiveMaximum"))
    if least is None and most is None:
        return None
    if least is not None and "minimum" not in schema:
        least += step
    if most is not None and "maximum" not in schema:
        most -= step
    if least is None:
        least = most - STEPS
    if most is None:
        most = least + STEPS
    return least, most


def _steps(least: float, most: float, *, whole: bool) -> list[str]:
    if whole:
        first, last = math.ceil(least), math.floor(most)
        numbers = range(first, last + 1, max(1, (last - first) // STEPS))
        texts = [str(number) for number in numbers]
    else:
        values = [least + (most - least) * step / STEPS for step in range(STEPS + 1)]
        texts = [
            text for value in values if least <= float(text := f"{value:.6g}") <= most and "e" not in text
        ]
    if not texts:
        raise NoGrammar("no number lies between its bounds")
    return list(dict.fromkeys(texts))


def _mapping(value: Any, room: int, least: int) -> Expression:
    """An object with keys of the model's own choice."""
    most = max(least, min(ITEMS_MAX // 2, max(1, room // ITEM_MIN_CHARS)))
    member = sequence(json_string(room // most // 4, least=1), Exactly(": "), value(room // most))
    more = Repeated(sequence(Exactly(", "), member), max(0, least - 1), most - 1)
    return choice(
        *([Exactly("{}")] if least == 0 else []), sequence(Exactly("{"), member, more, Exactly("}"))
    )


def _anything(room: int, depth: int) -> Expression:
    """Any JSON value, not deeper than `depth`."""
    simple = choice(json_string(room), _number({}, whole=False), exactly_one(("true", "false", "null")))
    if depth == 0 or room < ITEM_MIN_CHARS:
        return simple
    most = max(1, min(ITEMS_MAX // 2, room // ITEM_MIN_CHARS))
    item = _anything(room // most, depth - 1)
    array = choice(
        Exactly("[]"),
        sequence(Exactly("["), item, Repeated(sequence(Exactly(", "), item), 0, most - 1), Exactly("]")),
    )
    return choice(simple, array, _mapping(lambda space: _anything(space, depth - 1), room, 0))
