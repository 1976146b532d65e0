"""From what a person sent to the keyword arguments of a program, and from its result to a prediction.

An image is a ``data:`` URL, or an address that goes on to the model's provider: nothing is fetched here.
Guests may send no address: the model's server would fetch it, often from the owner's own network.
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
    """`InvalidInput` where one is unknown, or a required one is missing or empty."""
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
    """The arguments of a call, the checked inputs in their own types, and the history where it has one."""
    check_inputs(spec, inputs)
    given = [field for field in spec.inputs if field.name in inputs]
    arguments = {field.name: read_value(field, inputs[field.name]) for field in given}
    if spec.history_field is not None:
        chat = ((message.role, message.text) for message in history)
        pairs = history_pairs(chat, spec.chat_field, spec.answer_field or "answer")
        arguments[spec.history_field] = dspy.History(messages=pairs)
    return arguments


def chat_messages(messages: Sequence[Mapping[str, Any]]) -> tuple[Message, ...]:
    """OpenAI-style messages as ours, of which the last is the question; or `InvalidInput`."""
    try:
        return tuple(Message(role, text) for role, text in read_messages(messages))
    except ValueError as error:
        raise InvalidInput(str(error)) from None


def read_value(field: InputField, raw: Any) -> Any:
    """The value of an input as its program wants it, where text may be JSON typed into a form."""
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
    """The URL of an image: a text, or ``{"url": ...}`` as OpenAI's clients send it; or `InvalidInput`."""
    url = raw["url"] if isinstance(raw, Mapping) and set(raw) == {"url"} else raw
    url = url.strip() if isinstance(url, str) else ""
    if len(url) > IMAGE_MAX_CHARS:
        raise InputTooLong(f"An image may have {IMAGE_MAX_CHARS:,} characters as a data URL.")
    if _DATA.fullmatch(url) or _ADDRESS.fullmatch(url):
        return url
    raise InvalidInput(
        "This is no image: send a PNG, JPEG, GIF or WebP as a data URL, or an http(s) address."
    )


def image_chars(values: Iterable[Any]) -> int:
    """How many characters of these inputs are pictures, which have a limit of their own."""
    return sum(len(text) for text in map(str, values) if "data:image/" in text[:40])


def check_images(spec: ProgramSpec, inputs: Mapping[str, Any], *, guest: bool) -> int:
    """`image_chars`; what is no image, and a guest's address, is `InvalidInput`."""
    given = [inputs.get(field.name) for field in spec.inputs if field.kind == "image"]
    given = [raw for raw in given if raw not in (None, "")]
    if not all(url.startswith("data:") for url in map(image_url, given)) and guest:
        raise InvalidInput("Guests send an image as a file or a paste, not as an address.")
    return image_chars(given)


def prediction_of(result: Any, spec: ProgramSpec) -> dspy.Prediction:
    """What a program returned, by `as_prediction`; or a `ProgramLoadError`."""
    try:
        return as_prediction(result, spec.answer_field or next(iter(spec.outputs), "answer"))
    except TypeError as error:
        raise ProgramLoadError(
            f"The program “{spec.title}” returned a {type(result).__name__}. It must return a "
            "dspy.Prediction, text, or a dict of its output fields."
        ) from error
