"""The small form above the composer, for programs with inputs beside the chat box."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component

from dspy_demo.errors import InvalidInput
from dspy_demo.programs.images import image_url, is_address
from dspy_demo.programs.spec import InputField, ProgramSpec
from dspy_demo.ui.chat.markdown_safety import as_typed
from dspy_demo.ui.chat.titles import in_words


@dataclass(frozen=True, slots=True)
class ProgramForm:
    """The widgets of one program's further inputs."""

    spec: ProgramSpec
    group: gr.Row
    widgets: Mapping[str, Component]

    def values(self, given: Mapping[Component, Any]) -> dict[str, Any]:
        """The inputs as the program takes them, without the optional ones that were left empty.

        Raises:
            InvalidInput: A required field is empty, or one holds what it cannot.
        """
        values: dict[str, Any] = {}
        for field in self.spec.form_fields:
            value = given.get(self.widgets[field.name])
            if value is None or (isinstance(value, str) and not value.strip()):
                if field.required:
                    raise InvalidInput(f"Fill in “{label(field)}” first.")
                continue
            values[field.name] = _parsed(field, value)
        return values

    def pairs(self, values: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
        """The inputs as a reader sees them: labels and values."""
        return tuple(
            (label(field), _in_words(field, values[field.name]))
            for field in self.spec.form_fields
            if field.name in values
        )


def program_form(spec: ProgramSpec, *, visible: bool) -> ProgramForm:
    """Draw the form of a program. One without further inputs has an empty one, never visible."""
    with gr.Row(visible=visible and bool(spec.form_fields), elem_classes="program-form") as group:
        widgets = {field.name: _widget(field) for field in spec.form_fields}
    return ProgramForm(spec, group, widgets)


SPARE_FIELDS = 6
IMAGE_HINT = "Paste a picture, or its address"


@dataclass(frozen=True, slots=True)
class SpareForm:
    """Text fields for a program that came after the page was drawn: a version with inputs of its own."""

    group: gr.Row
    widgets: tuple[gr.Textbox, ...]

    def form(self, spec: ProgramSpec) -> ProgramForm:
        """The fields as the form of `spec`.

        Raises:
            InvalidInput: The program has more inputs than there are fields.
        """
        if len(spec.form_fields) > len(self.widgets):
            raise InvalidInput(f"“{spec.title}” has too many inputs for this page. Ask it by the API.")
        names = [field.name for field in spec.form_fields]
        return ProgramForm(spec, self.group, dict(zip(names, self.widgets, strict=False)))

    def updates(self, spec: ProgramSpec) -> dict[Component, Any]:
        """Label the fields for `spec` and hide the others."""
        drawn: dict[Component, Any] = {widget: gr.update(visible=False) for widget in self.widgets}
        for field, widget in zip(spec.form_fields, self.widgets, strict=False):
            hints = [field.description, f"One of: {', '.join(field.choices)}." if field.choices else ""]
            drawn[widget] = gr.update(
                visible=True,
                value="" if field.default is None else str(field.default),
                label=label(field) + ("" if field.required else " (optional)"),
                info=as_typed(" ".join(hint for hint in hints if hint)) or None,
                placeholder={
                    "json": "JSON",
                    "integer": "Number",
                    "number": "Number",
                    "boolean": "yes or no",
                    "image": IMAGE_HINT,
                }.get(field.kind, ""),
            )
        return drawn


def spare_form() -> SpareForm:
    """Draw the fields, all hidden."""
    with gr.Row(visible=False, elem_classes="program-form") as group:
        widgets = tuple(
            gr.Textbox(label="Input", visible=False, min_width=160, max_lines=6) for _ in range(SPARE_FIELDS)
        )
    return SpareForm(group, widgets)


def label(field: InputField) -> str:
    return field.label or in_words(field.name)


def _widget(field: InputField) -> Component:
    shown: dict[str, Any] = {
        "label": label(field) + ("" if field.required else " (optional)"),
        "info": as_typed(field.description) or None,  # Gradio makes links and more of it
        "min_width": 160,
    }
    match field.kind:
        case "integer" | "number":
            # Not gr.Number: an empty one reads as 0 (gradio 6.31).
            default = "" if field.default is None else str(field.default)
            return gr.Textbox(default, max_lines=1, placeholder="Number", **shown)
        case "boolean":
            return gr.Checkbox(bool(field.default), **shown)
        case "choice":
            first = field.default if field.default is not None else (field.choices or (None,))[0]
            return gr.Dropdown(list(field.choices), value=first if field.required else field.default, **shown)
        case "json":
            text = "" if field.default is None else json.dumps(field.default, ensure_ascii=False)
            return gr.Textbox(text, lines=1, max_lines=6, placeholder="JSON", **shown)
        case "image":
            # No gr.Image: that uploads. page.js reads a file or a paste into the field, as a data URL.
            return gr.Textbox(
                max_lines=1,
                submit_btn="Choose a file",
                elem_classes="image-input",
                placeholder=IMAGE_HINT,
                **shown,
            )
        case "text":
            return gr.Textbox(field.default, lines=1, max_lines=6, **shown)


def _in_words(field: InputField, value: Any) -> Any:
    if field.kind == "image":
        url = image_url(value)
        return url if is_address(url) else f"a picture of {len(url) * 3 // 4 // 1024 + 1} kB"
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else value


def _yes_or_no(text: str) -> bool:
    words = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}
    if text.lower() not in words:
        raise ValueError
    return words[text.lower()]


def _parsed(field: InputField, value: Any) -> Any:
    """The value of a field that a visitor typed as text; other widgets give the value itself."""
    parsers: dict[str, tuple[Callable[[str], Any], str]] = {
        "json": (json.loads, "JSON, for example [1, 2]"),
        "integer": (int, "a whole number"),
        "number": (float, "a number"),
        "boolean": (_yes_or_no, "yes or no"),
    }
    if field.kind not in parsers or not isinstance(value, str):
        return value
    parse, wanted = parsers[field.kind]
    try:
        return parse(value.strip())
    except ValueError:
        raise InvalidInput(f"“{label(field)}” must be {wanted}.") from None
