"""From what a person sent to the keyword arguments of a program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import dspy

from dspy_demo.errors import InvalidInput
from dspy_demo.events import Message
from dspy_demo.programs.chat_program import history_pairs, read_messages
from dspy_demo.programs.spec import ProgramSpec, read_value


def check_inputs(spec: ProgramSpec, inputs: Mapping[str, Any]) -> None:
    """Refuse inputs that the program does not have, or without which it would ask a model for nothing.

    Raises:
        InvalidInput: One is unknown, or a required one is missing or empty.
    """
    known = [field.name for field in spec.inputs]
    for name in inputs:
        if name not in known:
            raise InvalidInput(
                f"The program “{spec.title}” has no input “{str(name)[:80]}”. "
                f"Its inputs are: {', '.join(known)}."
            )
    for field in spec.inputs:
        value = inputs.get(field.name)
        if field.required and (value is None or (isinstance(value, str) and not value.strip())):
            raise InvalidInput(f"The input “{field.name}” is empty. Fill it in and send again.")


def program_inputs(
    spec: ProgramSpec, inputs: Mapping[str, Any], history: Sequence[Message]
) -> dict[str, Any]:
    """The arguments of a call: the inputs in their own types, and the history where it has one.

    Raises:
        InvalidInput: An input is unknown, missing or not of its field's type.
    """
    check_inputs(spec, inputs)
    arguments = {
        field.name: read_value(field, inputs[field.name]) for field in spec.inputs if field.name in inputs
    }
    if spec.history_field is not None:
        arguments[spec.history_field] = dspy.History(
            messages=history_pairs(
                ((message.role, message.text) for message in history),
                spec.chat_field,
                spec.answer_field or "answer",
            )
        )
    return arguments


def chat_messages(messages: Sequence[Mapping[str, Any]]) -> tuple[Message, ...]:
    """OpenAI-style messages as ours, of which the last is the question; see `read_messages`.

    Raises:
        InvalidInput: The last message is not the user's, or has content that is not text.
    """
    try:
        return tuple(
            Message("user" if role == "user" else "assistant", text) for role, text in read_messages(messages)
        )
    except ValueError as error:
        raise InvalidInput(str(error)) from None
