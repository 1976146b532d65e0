"""The small form above the composer, for programs with inputs beside the chat box."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr
from gradio.components import Component

from dspy_demo.errors import InvalidInput
from dspy_demo.programs.inputs import read_value
from dspy_demo.programs.spec import InputField, ProgramSpec
from dspy_demo.ui.chat.text import as_typed, in_words, plain_text

_PLACEHOLDERS = {"integer": "Number", "number": "Number", "json": "JSON"}


class Forms:
    """A form for each program that the page knows, of which one is seen; JSON for those that came later."""

    def __init__(self, specs: Sequence[ProgramSpec], shown: ProgramSpec) -> None:
        self._forms: dict[str, dict[str, Component]] = {}
        self._rows: dict[str, gr.Row] = {}
        for spec in specs:
            key = _key(spec)
            if spec.form_fields and key not in self._forms:
                with gr.Row(visible=key == _key(shown), elem_classes="program-form") as self._rows[key]:
                    self._forms[key] = {field.name: _widget(field) for field in spec.form_fields}
        late: dict[str, Any] = {"label": "Other inputs (JSON)", "lines": 1, "max_lines": 6}
        self._late = gr.Textbox(visible=False, elem_classes="program-form", **late)
        self.inputs = {self._late, *(widget for form in self._forms.values() for widget in form.values())}
        self.outputs: set[Component] = {self._late, *self._rows.values()}

    def show(self, spec: ProgramSpec) -> dict[Component, Any]:
        late = bool(spec.form_fields) and _key(spec) not in self._forms
        example = json.dumps({field.name: field.default for field in spec.form_fields}, ensure_ascii=False)
        return {
            **{row: gr.update(visible=key == _key(spec)) for key, row in self._rows.items()},
            self._late: gr.update(visible=late, placeholder=example),
        }

    def values(self, spec: ProgramSpec, given: Mapping[Component, Any]) -> dict[str, Any]:
        """The inputs as they were typed, without those left empty; `InvalidInput` where one is wrong."""
        typed: dict[str, Any] | None
        if form := self._forms.get(_key(spec)):
            typed = {name: given.get(widget) for name, widget in form.items()}
        else:
            typed = json_object((spec.form_fields and given.get(self._late)) or "{}")
        if typed is None:
            raise InvalidInput('Write the other inputs as JSON, for example {"tone": "calm"}.')
        values = {}
        for field in spec.form_fields:
            value = typed.get(field.name)
            if value is not None and (not isinstance(value, str) or value.strip()):
                read_value(field, value)
                values[field.name] = value
            elif field.required:
                raise InvalidInput(f"Fill in “{in_words(field.name)}” first.")
        return values


def json_object(text: Any) -> dict[str, Any] | None:
    try:
        value = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _key(spec: ProgramSpec) -> str:
    """Programs with the same fields have the same form."""
    return repr(spec.form_fields)


def _widget(field: InputField) -> Component:
    shown: dict[str, Any] = {
        "label": in_words(field.name) + ("" if field.required else " (optional)"),
        "info": as_typed(field.description) or None,  # Gradio draws it as Markdown
        "min_width": 160,
    }
    match field.kind:
        case "boolean":
            return gr.Checkbox(bool(field.default), **shown)
        case "choice":
            first = field.choices[0] if field.required and field.choices else None
            value = field.default if field.default is not None else first
            return gr.Dropdown(list(field.choices), value=value, **shown)
        case "image":
            # No gr.Image: that uploads. page.js reads a file or a paste into the field, as a data URL.
            shown |= {"elem_classes": "image-input", "placeholder": "Paste a picture, or its address"}
            return gr.Textbox(max_lines=1, submit_btn="Choose a file", **shown)
    # Numbers too: an empty gr.Number is 0.
    placeholder = _PLACEHOLDERS.get(field.kind)
    return gr.Textbox(plain_text(field.default), lines=1, max_lines=6, placeholder=placeholder, **shown)
