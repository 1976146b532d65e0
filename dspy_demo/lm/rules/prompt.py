"""Reads what a DSPy adapter asks for out of the messages it wrote.

The three adapters describe the output fields alike in the system prompt and differ in how they
mark fields in messages. Every message but the last user message is an earlier turn or an example.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

from dspy_demo.lm.rules.reply import Turn

Format = Literal["chat", "json", "xml", "plain"]
Role = Literal["user", "assistant"]

_ASKS: tuple[tuple[str, Format, str], ...] = (
    (
        "Respond with the corresponding output fields, starting with the field `[[ ## ",
        "chat",
        r"`\[\[ ## (\w+) ## \]\]`",
    ),
    ("Respond with the corresponding output fields wrapped in XML tags `<", "xml", r"`<(\w+)>`"),
    ("Respond with a JSON object in the following order of fields: `", "json", r"`(\w+)`"),
)
_LISTED_FIELD = re.compile(r"^\d+\. `(\w+)` \((.*?)\):", re.MULTILINE)
_HEADER = re.compile(r"^\[\[ ## (\w+) ## \]\][ \t]*$", re.MULTILINE)
_ONE_OF = re.compile(r"must (?:exactly match \(no extra characters\) one of|be one of): (.*)$")
_SCHEMA = "must adhere to the JSON schema: "


@dataclass(frozen=True, slots=True)
class OutputField:
    """A field to fill, as the prompt describes it: its type's name, and choices or schema where given."""

    name: str
    type_name: str = "str"
    choices: tuple[str, ...] = ()
    schema: Mapping[str, object] | None = None
    xml_shape: str = ""


@dataclass(frozen=True, slots=True)
class Task:
    """One request, read: what came in, what has to come out, and what was said before."""

    format: Format
    outputs: tuple[OutputField, ...]
    inputs: Mapping[str, str]
    earlier: tuple[Turn, ...] = ()
    instructions: str = field(default="", repr=False)


def read_task(system: str, messages: Sequence[tuple[Role, str]]) -> Task:
    """The task in the messages; a prompt that no DSPy adapter wrote is a plain question."""
    last = next((text for role, text in reversed(messages) if role == "user"), "")
    ask = _find_ask(last)
    if ask is None:
        return Task("plain", (), {"question": last}, _plain_turns(messages), system)
    start, layout, names = ask
    asked = last[start:]
    described = _describe_outputs(system, asked)
    outputs = tuple(described.get(name, OutputField(name)) for name in names)
    input_names = _listed_fields(system, "Your input fields are:")
    inputs = _read_fields(last[:start], layout, tuple(input_names))
    return Task(layout, outputs, inputs, _adapter_turns(messages, tuple(input_names), names), system)


def _find_ask(text: str) -> tuple[int, Format, tuple[str, ...]] | None:
    """Where the output requirements start, whose they are, and the fields they name."""
    found = [(text.rfind(opening), layout, pattern) for opening, layout, pattern in _ASKS]
    start, layout, pattern = max(found)
    if start < 0:
        return None
    requirements = text[start:].split(" Use this nested XML structure:")[0]
    names = [name for name in re.findall(pattern, requirements) if name != "completed" or layout != "chat"]
    return (start, layout, tuple(dict.fromkeys(names))) if names else None


def _listed_fields(system: str, title: str) -> dict[str, str]:
    """The numbered fields below `title`, with the names of their types."""
    _, _, rest = system.partition(title)
    section = re.split(
        r"^(?:Your output fields are:|All interactions will be)", rest, maxsplit=1, flags=re.MULTILINE
    )
    return dict(_LISTED_FIELD.findall(section[0]))


def _describe_outputs(system: str, asked: str) -> dict[str, OutputField]:
    notes = _notes(system)
    shapes = asked.partition("Use this nested XML structure: ")[2]
    return {
        name: OutputField(
            name,
            type_name,
            _choices(type_name, notes.get(name, "")),
            _schema(notes.get(name, "")),
            _xml_shape(name, shapes),
        )
        for name, type_name in _listed_fields(system, "Your output fields are:").items()
    }


def _notes(system: str) -> dict[str, str]:
    """What the field structure says of each output: ``{n}        # note: the value you produce ...``."""
    notes: dict[str, str] = {}
    for name, quoted, note in re.findall(
        r'^\s*(?:"\w+": ")?\{(\w+)\}\s+(#) note: the value you produce (.*)$', system, re.MULTILINE
    ):
        assert quoted
        notes[name] = _unquoted(note) if f'"{name}": "{{{name}}}' in system else note
    return notes


def _unquoted(note: str) -> str:
    """A note of the JSON adapter stands inside a JSON string."""
    try:
        return str(json.loads(f'"{note.rstrip().removesuffix(",").removesuffix(chr(34))}"'))
    except ValueError:
        return note


def _choices(type_name: str, note: str) -> tuple[str, ...]:
    listed = _ONE_OF.search(note)
    if listed:
        return tuple(listed[1].split("; "))
    return ("True", "False") if type_name == "bool" else ()


def _schema(note: str) -> Mapping[str, object] | None:
    _, found, text = note.partition(_SCHEMA)
    if not found:
        return None
    try:
        schema = json.loads(text)
    except ValueError:
        return None
    return schema if isinstance(schema, dict) else None


def _xml_shape(name: str, shapes: str) -> str:
    match = re.search(rf"<{name}>.*?</{name}>", shapes)
    return match[0] if match else ""


def _read_fields(text: str, layout: Format, names: Sequence[str]) -> dict[str, str]:
    """The values of the fields in one message. A header counts once and only for a known field."""
    if layout == "xml":
        found = ((name, re.search(rf"<{name}>\n?(.*)\n?</{name}>", text, re.DOTALL)) for name in names)
        return {name: match[1].strip() for name, match in found if match}
    values: dict[str, str] = {}
    headers: list[re.Match[str]] = []
    for match in _HEADER.finditer(text):
        if (match[1] in names or not names) and match[1] not in {found[1] for found in headers}:
            headers.append(match)
    for match, following in zip(headers, [*headers[1:], None], strict=True):
        values[match[1]] = text[match.end() : following.start() if following else None].strip()
    return values


def _adapter_turns(
    messages: Sequence[tuple[Role, str]], inputs: Sequence[str], outputs: Sequence[str]
) -> tuple[Turn, ...]:
    """The turns of a `dspy.History`. Examples (demos) carry no output requirements and are left out."""
    turns = []
    for (role, text), (next_role, reply) in pairwise(messages):
        ask = _find_ask(text) if (role, next_role) == ("user", "assistant") else None
        if ask:
            start, layout, _ = ask
            question = question_of(_read_fields(text[:start], layout, inputs))
            turns.append(Turn(question, _told(reply, layout, outputs)))
    return tuple(turns)


def _told(reply: str, layout: Format, outputs: Sequence[str]) -> str:
    """What an earlier reply told the user: its last field that is not empty."""
    if layout == "json":
        try:
            values = {name: str(value) for name, value in json.loads(reply).items()}
        except (ValueError, AttributeError):
            values = {}
    else:
        values = _read_fields(reply.partition("[[ ## completed ## ]]")[0], layout, outputs)
    told = [values[name] for name in outputs if values.get(name) not in {None, "", "None"}]
    return told[-1] if told else ""


def _plain_turns(messages: Sequence[tuple[Role, str]]) -> tuple[Turn, ...]:
    pairs = pairwise(messages)
    return tuple(
        Turn(text, reply)
        for (role, text), (next_role, reply) in pairs
        if (role, next_role) == ("user", "assistant")
    )


_QUESTION_NAMES = (
    "question",
    "query",
    "problem",
    "prompt",
    "message",
    "user_message",
    "expression",
    "task",
    "request",
    "input",
    "user_input",
    "text",
    "sentence",
    "instruction",
    "goal",
    "topic",
)
_BACKGROUND = re.compile(
    r"draft|context|trajectory|history|reasoning|rationale|thought|answer|critique|feedback|review|passage|"
    r"document|notes?$|evidence|hint|plan"
)


def question_of(inputs: Mapping[str, str]) -> str:
    """The input that asks; drafts, contexts and the like are background."""
    for name in _QUESTION_NAMES:
        if inputs.get(name):
            return inputs[name]
    asking = [text for name, text in inputs.items() if name.endswith(("question", "query")) and text]
    foreground = [text for name, text in inputs.items() if not _BACKGROUND.search(name)]
    return next(iter([*asking, *foreground, *inputs.values()]), "")
