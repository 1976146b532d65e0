"""From what a person sent to the keyword arguments of a program, and from its result to a prediction.

An image comes whole, as a ``data:`` URL that the browser or the client made: no file is uploaded or stored,
and nothing is fetched here. An address goes on to the model's provider as it was written. Guests may send no
address: the model's server would fetch it, which often stands in the owner's own network.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import dspy
from pydantic import TypeAdapter, ValidationError

from dspy_demo.errors import InputTooLong, InvalidInput, ProgramLoadError
from dspy_demo.events import Message
from dspy_demo.programs.chat_program import as_prediction, history_pairs, read_messages
from dspy_demo.programs.spec import InputField, ProgramSpec

#: Length of a ``data:`` URL; `page.js` makes a picture smaller until it fits. About 100 kB as a file.
IMAGE_MAX_CHARS = 150_000
_DATA = re.compile(r"data:image/(png|jpeg|gif|webp);base64,[A-Za-z0-9+/]+={0,2}")
_ADDRESS = re.compile(r"https?://[^\s/@]+(/\S*)?")


def check_inputs(spec: ProgramSpec, inputs: Mapping[str, Any]) -> None:
    """Refuse inputs that the program does not have, or without which it would ask a model for nothing.

    Raises:
        InvalidInput: One is unknown, or a required one is missing or empty.
    """
    known = [field.name for field in spec.inputs]
    if unknown := [str(name)[:80] for name in inputs if name not in known]:
        raise InvalidInput(
            f"The program “{spec.title}” has no input “{unknown[0]}”. Its inputs are: {', '.join(known)}."
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
    given = [field for field in spec.inputs if field.name in inputs]
    arguments = {field.name: read_value(field, inputs[field.name]) for field in given}
    if spec.history_field is not None:
        chat = ((message.role, message.text) for message in history)
        pairs = history_pairs(chat, spec.chat_field, spec.answer_field or "answer")
        arguments[spec.history_field] = dspy.History(messages=pairs)
    return arguments


def chat_messages(messages: Sequence[Mapping[str, Any]]) -> tuple[Message, ...]:
    """OpenAI-style messages as ours, of which the last is the question; see `read_messages`.

    Raises:
        InvalidInput: The last message is not the user's, or has content that is not text.
    """
    try:
        read = read_messages(messages)
    except ValueError as error:
        raise InvalidInput(str(error)) from None
    return tuple(Message("user" if role == "user" else "assistant", text) for role, text in read)


def read_value(field: InputField, raw: Any) -> Any:
    """The value of an input as its program wants it, from a form, JSON or a query.

    Text for a field of another type is read as JSON, so that ``"[1, 2]"`` typed into a form is a list.

    Raises:
        InvalidInput: The value is not of the field's type.
    """
    if raw is None or (raw == "" and not field.required):
        return field.default
    if field.kind == "image":
        raw = {"url": image_url(raw)}
    adapter: TypeAdapter[Any] = TypeAdapter(field.annotation)
    try:
        as_text = field.kind == "json" and isinstance(raw, str)
        return adapter.validate_json(raw) if as_text else adapter.validate_python(raw)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]["msg"]
        raise InvalidInput(f"The input “{field.name}” cannot be used: {problem}.") from None


def image_url(raw: Any) -> str:
    """The URL of an image as somebody sent it: a text, or ``{"url": ...}`` as OpenAI's clients do.

    Raises:
        InvalidInput: It is no image.
        InputTooLong: It is too large.
    """
    url = raw["url"] if isinstance(raw, Mapping) and set(raw) == {"url"} else raw
    url = url.strip() if isinstance(url, str) else ""
    if len(url) > IMAGE_MAX_CHARS:
        raise InputTooLong(
            f"An image may have {IMAGE_MAX_CHARS:,} characters as a data URL. Make it smaller."
        )
    if _DATA.fullmatch(url) or _ADDRESS.fullmatch(url):
        return url
    raise InvalidInput(
        "This is no image: send a PNG, JPEG, GIF or WebP as a data URL, or an http(s) address."
    )


def is_address(url: str) -> bool:
    """Whether the image itself is not in the URL."""
    return not url.startswith("data:")


def image_chars(inputs: Mapping[str, Any], names: Iterable[str]) -> int:
    """How much of the inputs with these names is images, which have a limit of their own."""
    given = [str(inputs.get(name) or "") for name in names]
    return sum(len(text) for text in given if "data:image/" in text[:40])


def image_fields(spec: ProgramSpec) -> list[str]:
    return [field.name for field in spec.inputs if field.kind == "image"]


def check_images(spec: ProgramSpec, inputs: Mapping[str, Any], *, guest: bool) -> None:
    """Refuse what is no image, and a guest's address, with `InvalidInput`."""
    for name in image_fields(spec):
        raw = inputs.get(name)
        if raw not in (None, "") and is_address(image_url(raw)) and guest:
            raise InvalidInput("Guests send an image as a file or a paste, not as an address.")


def prediction_of(result: Any, spec: ProgramSpec) -> dspy.Prediction:
    """What a program returned, as a prediction: text is its answer, a dict holds its fields.

    Raises:
        ProgramLoadError: It is something else.
    """
    try:
        return as_prediction(result, spec.answer_field or next(iter(spec.outputs), "answer"))
    except TypeError as error:
        raise ProgramLoadError(
            f"The program “{spec.title}” returned a {type(result).__name__}. It must return a "
            "dspy.Prediction, text, or a dict of its output fields."
        ) from error
