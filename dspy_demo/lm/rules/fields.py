"""Fills the output fields a program asks for with a value that parses for its type."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction

from dspy_demo.lm.rules.numerals import Real
from dspy_demo.lm.rules.prompt import OutputField, Task
from dspy_demo.lm.rules.render import Jsonable
from dspy_demo.lm.rules.reply import Reply

_REASONING = re.compile(
    r"reason|rationale|thought|thinking|explanation|explain|analysis|working|steps?$|scratch"
)
_REVIEW = re.compile(r"critique|feedback|review|verdict|check|comment|suggestion|evaluation")
_CONFIDENCE = re.compile(r"confiden|certain|probab")
_MAX_DEPTH = 6


def fill_fields(task: Task, reply: Reply) -> dict[str, Jsonable]:
    """A value for every output field of `task`, in its order."""
    return {wanted.name: _fill(wanted, task, reply) for wanted in task.outputs}


def _fill(wanted: OutputField, task: Task, reply: Reply) -> Jsonable:
    type_name = _without_none(wanted.type_name)
    if wanted.choices:
        return _choose(wanted, reply)
    if type_name == "str":
        return _text_for(wanted.name, task, reply)
    if type_name in {"int", "float"}:
        return _number_for(wanted.name, type_name, reply)
    if wanted.schema is not None:
        return _from_schema(wanted.schema, wanted.schema, wanted.name, reply)
    if type_name.startswith(("list", "set", "tuple", "List")):
        return _list_for(wanted.name, type_name, reply)
    if type_name.startswith(("dict", "Dict")):
        return {}
    if wanted.xml_shape:
        return _from_xml_shape(wanted.xml_shape)
    return _text_for(wanted.name, task, reply)


def _without_none(type_name: str) -> str:
    """The first type of a union with None: ``Union[float, NoneType]`` -> ``float``."""
    inner = re.fullmatch(r"(?:Union|Optional)\[(.*)\]", type_name)
    if not inner:
        return type_name
    return inner[1].removesuffix(", NoneType").removeprefix("NoneType, ")


def _text_for(name: str, task: Task, reply: Reply) -> str:
    if _REASONING.search(name):
        return "\n".join(reply.steps)
    if _REVIEW.search(name):
        return _review(task.inputs, reply)
    return reply.sentence


def _review(inputs: Mapping[str, str], reply: Reply) -> str:
    """What there is to say about a draft: whether it says what the rules found."""
    draft = next((text for name, text in inputs.items() if re.search(r"draft|answer", name)), "")
    if not reply.understood:
        return "I cannot judge this: it is outside my rules."
    if draft and (reply.sentence in draft or draft.strip() == value_text(reply)):
        return f"I worked it out again and it is right: {reply.sentence}"
    return f"I worked it out again: {reply.sentence}"


def value_text(reply: Reply) -> str:
    """The bare result of the reply as text."""
    match reply.value:
        case bool() as truth:
            return "yes" if truth else "no"
        case Fraction() as number:
            return str(Real(number))
        case tuple() as items:
            return ", ".join(items)
        case str() as text:
            return text
        case None:
            return ""


def _number_for(name: str, type_name: str, reply: Reply) -> int | float:
    if _CONFIDENCE.search(name):
        return 1 if reply.understood else 0
    number = Fraction(0)
    if isinstance(reply.value, Fraction):
        number = reply.value
    elif isinstance(reply.value, tuple):
        number = Fraction(len(reply.value))
    if type_name == "int" or number.denominator == 1:
        return round(number)
    return float(number)


def _choose(wanted: OutputField, reply: Reply) -> Jsonable:
    """The choice that the reply speaks for, else the first; for a bool, what the reply found true."""
    lowered = {choice.lower(): choice for choice in wanted.choices}
    if wanted.type_name == "bool" or set(lowered) in ({"true", "false"}, {"yes", "no"}):
        truth = reply.value if isinstance(reply.value, bool) else False
        if wanted.type_name == "bool":
            return truth
        return (
            lowered["true" if truth else "false"] if "true" in lowered else lowered["yes" if truth else "no"]
        )
    result = value_text(reply).lower()
    if result in lowered:
        return _choice(wanted, lowered[result])
    for candidate in (reply.topic, "math" if reply.topic == "arithmetic" else "other"):
        if candidate in lowered:
            return _choice(wanted, lowered[candidate])
    return _choice(wanted, wanted.choices[0])


def _choice(wanted: OutputField, choice: str) -> Jsonable:
    """A choice that is a number in the program's type is a number in the reply."""
    quoted = f"'{choice}'" in wanted.type_name or f'"{choice}"' in wanted.type_name
    return (
        int(choice)
        if re.fullmatch(r"-?\d+", choice) and not quoted and "Literal" in wanted.type_name
        else choice
    )


def _list_for(name: str, type_name: str, reply: Reply) -> Jsonable:
    inner = type_name.partition("[")[2].removesuffix("]")
    if inner in {"int", "float"}:
        return [_number_for(name, inner, reply)] if isinstance(reply.value, Fraction) else []
    if inner in {"", "str", "Any"}:
        return list(_items(name, reply))
    return []


def _items(name: str, reply: Reply) -> tuple[str, ...]:
    if _REASONING.search(name):
        return reply.steps
    if isinstance(reply.value, tuple):
        return reply.value
    return (value_text(reply) or reply.sentence,)


def _from_schema(
    schema: Mapping[str, object], root: Mapping[str, object], name: str, reply: Reply, depth: int = 0
) -> Jsonable:
    """The plainest value that the JSON schema allows."""
    if depth > _MAX_DEPTH:
        return None
    if "enum" in schema or "const" in schema:
        allowed = schema.get("enum", [schema.get("const")])
        return _first(allowed)
    reference = schema.get("$ref")
    if isinstance(reference, str):
        definitions = root.get("$defs", {})
        found = definitions.get(reference.rsplit("/", 1)[-1], {}) if isinstance(definitions, Mapping) else {}
        return _from_schema(found, root, name, reply, depth + 1)
    choices = schema.get("anyOf") or schema.get("allOf")
    if isinstance(choices, list) and choices:
        return _from_schema(choices[0], root, name, reply, depth + 1)
    match schema.get("type"):
        case "string":
            return "\n".join(reply.steps) if _REASONING.search(name) else reply.sentence
        case "integer" | "number" as kind:
            return _number_for(name, "int" if kind == "integer" else "float", reply)
        case "boolean":
            return reply.value if isinstance(reply.value, bool) else False
        case "array":
            return _array(schema, root, name, reply, depth)
        case "object":
            return _object(schema, root, reply, depth)
        case "null":
            return None
    return reply.sentence


def _first(allowed: object) -> Jsonable:
    first = allowed[0] if isinstance(allowed, list) and allowed else None
    return first if isinstance(first, str | int | float | bool) else None


def _array(
    schema: Mapping[str, object], root: Mapping[str, object], name: str, reply: Reply, depth: int
) -> Jsonable:
    items = schema.get("items")
    kind = items.get("type") if isinstance(items, Mapping) else None
    if kind == "string":
        return list(_items(name, reply))
    if kind in {"integer", "number"}:
        wanted = "int" if kind == "integer" else "float"
        return [_number_for(name, wanted, reply)] if isinstance(reply.value, Fraction) else []
    return []


def _object(schema: Mapping[str, object], root: Mapping[str, object], reply: Reply, depth: int) -> Jsonable:
    properties, required = schema.get("properties"), schema.get("required")
    if not isinstance(properties, Mapping) or not isinstance(required, list):
        return {}
    return {
        str(name): _from_schema(inner, root, str(name), reply, depth + 1)
        for name, inner in properties.items()
        if name in required
    }


def _from_xml_shape(shape: str) -> dict[str, Jsonable]:
    """Zero in every element: the one text that is a valid string, number and truth value alike."""
    inside = re.sub(r"^<\w+>|</\w+>$", "", shape)
    return {
        match[1]: _from_xml_shape(match[0]) if "<" in match[2] else "0"
        for match in re.finditer(r"<(\w+)>(.*?)</\1>", inside)
    }
