"""A whole reply as an expression, as each of DSPy's adapters reads it (3.4)."""

from __future__ import annotations

import enum
import json
import types
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

from dspy_demo.lm.grammar.characters import COUNTED_MAX, TEXT_MIN_CHARS, free_text, json_string
from dspy_demo.lm.grammar.expression import (
    Choice,
    Exactly,
    Expression,
    Sequence,
    choice,
    exactly_one,
    sequence,
)
from dspy_demo.lm.grammar.values import NoGrammar, json_value

if TYPE_CHECKING:
    import dspy

AdapterKind = Literal["chat", "json", "xml"]
#: Few languages and tokenizers put fewer characters into a token, on average. Where one does, the reply is
#: completed by `Expression.completion`.
CHARS_PER_TOKEN = 3
#: Texts that DSPy may take for something else.
READ_AS_JSON = ("[", "{", "null", "1.5", "text")


def reply_grammar(signature: type[dspy.Signature], kind: AdapterKind, max_tokens: int) -> Expression | None:
    """The replies that the adapter can parse into the output fields of `signature`.

    The fields share the room equally, so that a long reasoning leaves some for the answer.

    Args:
        max_tokens: The limit of the reply.

    Returns:
        None where a field's type, or the adapter, has no grammar.
    """
    fields = {name: field.annotation for name, field in signature.output_fields.items()}
    markup = sum(2 * len(name) + 16 for name in fields)
    room = max(TEXT_MIN_CHARS, (max_tokens * CHARS_PER_TOKEN - markup) // max(1, len(fields)))
    try:
        return _WRITERS[kind](fields, room)
    except NoGrammar:
        return None


def _chat_reply(fields: Mapping[str, Any], room: int) -> Expression:
    parts: list[Expression] = []
    for name, annotation in fields.items():
        parts += [Exactly(f"[[ ## {name} ## ]]\n"), _plain_value(annotation, room), Exactly("\n\n")]
    return sequence(*parts, Exactly("[[ ## completed ## ]]"))


def _json_reply(fields: Mapping[str, Any], room: int) -> Expression:
    parts: list[Expression] = []
    for name, annotation in fields.items():
        parts += [Exactly((", " if parts else "") + json.dumps(name, ensure_ascii=False) + ": ")]
        parts += [_member(annotation, room)]
    return sequence(Exactly("{"), *parts, Exactly("}"))


def _xml_reply(fields: Mapping[str, Any], room: int) -> Expression:
    parts: list[Expression] = []
    for name, annotation in fields.items():
        if not (
            _is_text(annotation) or annotation in (int, float, bool) or get_origin(annotation) is Literal
        ):
            raise NoGrammar("nested XML")
        value = _plain_value(annotation, room, forbidden="<>&\ufffe\uffff")
        parts += [Exactly(f"<{name}>\n"), value, Exactly(f"\n</{name}>\n")]
    return sequence(*parts)


_WRITERS: dict[AdapterKind, Callable[[Mapping[str, Any], int], Expression]] = {
    "chat": _chat_reply,
    "json": _json_reply,
    "xml": _xml_reply,
}


def _plain_value(annotation: Any, room: int, *, forbidden: str = "") -> Expression:
    """A value as it stands between two headers: text as it is, everything else as JSON."""
    if _is_text(annotation) or _is_text_or_none(annotation):
        return free_text(room, forbidden=forbidden)
    if annotation is bool:
        return exactly_one(("True", "False"))
    if _is_enum(annotation):
        return exactly_one(_plain_member(member, forbidden) for member in annotation)
    if get_origin(annotation) is Literal:
        return exactly_one(_plain(value, forbidden) for value in get_args(annotation))
    return _json(annotation, room)


def _json(annotation: Any, room: int) -> Expression:
    if _is_enum(annotation):
        return exactly_one(json.dumps(_member_name(member), ensure_ascii=False) for member in annotation)
    return json_value(annotation, room)


def _member(annotation: Any, room: int) -> Expression:
    """A value of the object that JSONAdapter reads.

    What is a string there is read as JSON once more, but for a few types (`parse_value`): such a string is
    allowed only where it comes back as it is.
    """
    if _is_text(annotation) or _is_text_or_none(annotation):
        return json_string(min(room, COUNTED_MAX), least=1)
    value = _json(annotation, room)
    options = value.options if isinstance(value, Choice) else (value,)
    return choice(*(option for option in options if _comes_back(option, annotation)))


def _comes_back(value: Expression, annotation: Any) -> bool:
    if isinstance(value, Exactly) and value.text.startswith('"'):
        return _is_read(json.loads(value.text), annotation)
    is_text = isinstance(value, Sequence) and value.parts[0] == Exactly('"')
    if is_text and not all(_is_read(text, annotation) for text in READ_AS_JSON):
        raise NoGrammar("any text is read as JSON once more")
    return True


def _is_read(text: str, annotation: Any) -> bool:
    from dspy.adapters.utils import parse_value

    try:
        parse_value(text, annotation)
    except ValueError:
        return False
    return True


def _member_name(member: enum.Enum) -> str:
    """What DSPy finds a member by: its value where that is text, else its name."""
    return member.value if isinstance(member.value, str) else member.name


def _plain_member(member: enum.Enum, forbidden: str) -> str:
    name = _member_name(member)
    return name if name == _plain(name, forbidden) else member.name


def _plain(value: Any, forbidden: str) -> str:
    """A choice in words. Quoted where the adapter, which strips, would not find it otherwise."""
    if not isinstance(value, str):
        return json.dumps(value)
    if any(character in forbidden for character in value) or value.splitlines() not in ([], [value]):
        raise NoGrammar("a choice that this format cannot hold")
    return f'"{value}"' if value != value.strip() or not value or value.startswith("[[") else value


def _is_text(annotation: Any) -> bool:
    import dspy

    return annotation is str or annotation is dspy.Reasoning


def _is_enum(annotation: Any) -> bool:
    return isinstance(annotation, enum.EnumMeta)


def _is_text_or_none(annotation: Any) -> bool:
    """A union with text and None keeps any text as it is (`dspy.adapters.utils.parse_value`)."""
    arguments = get_args(annotation)
    return get_origin(annotation) in (Union, types.UnionType) and {str, type(None)} <= set(arguments)
