"""The format of a reply as a grammar for LLGuidance, from the output fields of a signature.

A small model often misses the format that DSPy's adapters ask for, or writes one field until its tokens are
spent; here each field has a bound of its own. LLGuidance takes a bound in tokens only for rules in lower case
that consist of one terminal. A grammar that it cannot read leaves the reply unconstrained, without an error.
"""

from __future__ import annotations

import enum
import json
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args, get_origin

from pydantic import PydanticUserError, TypeAdapter

if TYPE_CHECKING:
    import dspy

#: What a text gets at least, in tokens, however little a reply may have.
LEAST_TOKENS = 8
#: A text is a first paragraph, which gets half of its tokens, and so many more, which share the other half.
MORE_PARAGRAPHS = 5
#: What is reserved for a typed value, and what a nested one may take beyond that, in tokens.
VALUE_TOKENS, NESTED_TOKENS = 32, 1024
ITEMS_MAX, CHARS_MAX, NUMBER_MAX = 4, 120, 10**9
_CONTROL = r"\x00-\x08\x0b-\x1f\x7f\x{85}\x{2028}\x{2029}"
#: Lines of which none is blank or looks like a header; and the end of the last one, if the model writes it.
_PARAGRAPH = rf"/[^\s\[{_CONTROL}][^\n{_CONTROL}]*(\n[^\n\[{_CONTROL}][^\n{_CONTROL}]*)*\n?/"
_JSON_TEXT = rf'/([^"\\\n\t{_CONTROL}]|\\["\\nt])+/'
_XML_TEXT = rf"/[^\s<>&{_CONTROL}][^<>&{_CONTROL}]*/"
_ANYTHING: dict[str, Any] = {"type": ["string", "number", "boolean", "null"], "maxLength": CHARS_MAX}


class Grammar(NamedTuple):
    """A grammar as llama.cpp takes it.

    A reply takes at most `most_tokens`. That is what was asked for, unless the marks of the format and the
    typed values leave less than `LEAST_TOKENS` for a text, or a value is nested. All free texts together take
    at most `text_tokens`: where a reply has so many, its texts were cut.
    """

    text: str
    most_tokens: int
    text_tokens: int


class _NoGrammar(Exception):
    """A type has no grammar in this format. The model then writes freely."""


def reply_grammar(format_: str, signature: type[dspy.Signature], max_tokens: int) -> Grammar | None:
    """The replies that DSPy's adapter of a format can read; None where a field's type has no grammar."""
    types = [field.annotation for field in signature.output_fields.values()]
    try:
        values = [None if _is_text(type_) else _value(type_, format_) for type_ in types]
    except _NoGrammar:
        return None
    frames, end = _frames(format_, list(signature.output_fields))
    texts = values.count(None)
    # A token may be a single byte, and the end of the reply is a token too.
    fixed = len("".join([*map("".join, frames), end]).encode()) + 1
    fixed += texts * (MORE_PARAGRAPHS + 1) + (len(values) - texts) * VALUE_TOKENS
    room = max(LEAST_TOKENS, (max_tokens - fixed) // texts) if texts else 0
    start, rules = [], []
    for number, ((before, after), value) in enumerate(zip(frames, values, strict=True)):
        start += [_quoted(before), f"f{number}"]
        start += [_quoted(after)] if value or format_ == "xml" else []
        rules += [f"f{number}: {value}"] if value else _text(number, room, format_)
    lines = ["%llguidance {}", f"start: {' '.join(start)} {_quoted(end)}", *rules]
    nested = sum("%json" in (value or "") for value in values) * NESTED_TOKENS
    return Grammar("\n".join(lines) + "\n", max(max_tokens, fixed + texts * room) + nested, texts * room)


def _frames(format_: str, names: list[str]) -> tuple[list[tuple[str, str]], str]:
    """What stands before and after each field's value, and at the end."""
    if format_ == "chat":
        return [(f"[[ ## {name} ## ]]\n", "\n\n") for name in names], "[[ ## completed ## ]]"
    if format_ == "xml":
        return [(f"<{name}>\n", f"\n</{name}>\n") for name in names], ""
    keys = [f"{json.dumps(name, ensure_ascii=False)}: " for name in names]
    return [(f", {key}" if number else f"{{{key}", "") for number, key in enumerate(keys)], "}"


def _text(number: int, tokens: int, format_: str) -> list[str]:
    """The rules of a free text, with what ends it in the formats that have no mark of their own."""
    if format_ == "json":
        return [f'f{number}: "\\"" t{number} "\\""', f"t{number}[max_tokens={tokens}]: {_JSON_TEXT}"]
    if format_ == "xml":
        return [f"f{number}[max_tokens={tokens}]: {_XML_TEXT}"]
    # A terminal takes all it can, so a model could never end a text that may hold blank lines. Therefore a
    # paragraph is a terminal: after a blank line comes the next one, or a header.
    names = [f"p{number}_{index}" for index in range(MORE_PARAGRAPHS)]
    first, more = max(1, tokens // 2), max(1, tokens // 2 // MORE_PARAGRAPHS)
    return [
        f'f{number}: t{number} "\\n"' + "".join(f' ({name} "\\n"' for name in names) + ")?" * MORE_PARAGRAPHS,
        f"t{number}[max_tokens={first}]: {_PARAGRAPH}",
        *(f"{name}[max_tokens={more}]: {_PARAGRAPH}" for name in names),
    ]


def _value(type_: Any, format_: str) -> str:
    """The expression of a typed value: a choice in words, or JSON."""
    if options := _options(type_):
        plain = format_ != "json"
        texts = [o if plain and isinstance(o, str) else json.dumps(o, ensure_ascii=False) for o in options]
        if plain and any(text != text.strip() or not text or set(text) & set("\n[<>&") for text in texts):
            raise _NoGrammar("a choice that this format cannot hold")
        return " | ".join(map(_quoted, texts))
    try:
        schema = TypeAdapter(type_).json_schema()
    except (PydanticUserError, TypeError, ValueError) as error:
        raise _NoGrammar from error
    if format_ == "xml" and set("<>&") & set(json.dumps(schema)):
        raise _NoGrammar("a value that XML writes in another way")
    texts_in_it = {"pattern": "^[^<>&]*$"} if format_ == "xml" else {}
    bounded = _bounded(schema, texts_in_it) or _ANYTHING | texts_in_it
    return f"%json {json.dumps({'x-guidance': {'whitespace_flexible': False, 'lenient': True}, **bounded})}"


def _options(type_: Any) -> list[Any]:
    """The values of a choice, as DSPy's adapters ask for them."""
    if isinstance(type_, enum.EnumMeta):
        members: list[enum.Enum] = list(type_)
        return [member.value if isinstance(member.value, str) else member.name for member in members]
    if type_ is bool:
        return [True, False]
    return list(get_args(type_)) if get_origin(type_) is Literal else []


def _bounded(schema: Any, texts: dict[str, str]) -> Any:
    """The schema with a bound for whatever a model may repeat; `texts` holds for each text in it."""
    if isinstance(schema, list):
        return [_bounded(part, texts) for part in schema]
    if not isinstance(schema, dict):
        return schema
    anything = _ANYTHING | texts
    found = {key: _bounded(value, texts) for key, value in schema.items()}
    match found.get("type"):
        case "string":
            most = max(CHARS_MAX, found.get("minLength", 0))
            return {"maxLength": most} | ({} if "format" in found else texts) | found
        case "integer" | "number" as kind:
            digits = {"multipleOf": 0.0001} if kind == "number" else {}
            return digits | {"minimum": -NUMBER_MAX, "maximum": NUMBER_MAX} | found
        case "array":
            fixed = found.get("prefixItems", ())
            most = max(ITEMS_MAX, found.get("minItems", 0), len(fixed))
            return {"maxItems": most} | found | {"items": found.get("items") or (not fixed and anything)}
        case "object" if "properties" in found:
            return found | {"additionalProperties": False}
        case "object":
            value = found.get("additionalProperties")
            value = value if isinstance(value, dict) and value else anything
            keys = {"patternProperties": {"^[a-zA-Z_][a-zA-Z0-9_]{0,23}$": value}}
            return found | keys | {"additionalProperties": False, "maxProperties": ITEMS_MAX}
    return found


def _is_text(type_: Any) -> bool:
    """Text is kept as it is, also where it may be None."""
    import dspy

    return type_ in (str, dspy.Reasoning, str | None)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
