"""The sidebar: what is active, and how to change it."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import gradio as gr
from gradio.components import Component
from pydantic import SecretStr

from dspy_demo.errors import InvalidInput
from dspy_demo.events import LMChoice
from dspy_demo.lm.detection import Detection, LMOption
from dspy_demo.programs.spec import ProgramSpec
from dspy_demo.ui.server_panel import LOCAL, SERVED, ServerPanel, draw_server_panel
from dspy_demo.ui.version_panel import VersionPanel, draw_version_panel

PRODUCT = "DSPy demo"
OTHER = "other"
N = TypeVar("N", int, float)
ROW_MAX_CHARS = 30


@dataclass(frozen=True, slots=True)
class Sidebar:
    """The sidebar's widgets, and what their values mean.

    Attributes:
        server: The model server's state, below the switch.
        versions: None where the visitor is not the owner.
    """

    detection: Detection
    active: gr.HTML
    model: gr.Dropdown
    other: gr.Column
    other_model: gr.Textbox
    api_base: gr.Textbox
    api_key: gr.Textbox
    temperature: gr.Textbox
    max_tokens: gr.Textbox
    cache: gr.Checkbox
    program: gr.Dropdown
    about_program: gr.HTML
    backend: gr.Radio
    server: ServerPanel
    versions: VersionPanel | None

    @property
    def inputs(self) -> set[Component]:
        """What a turn needs to know from the sidebar."""
        return {
            self.model,
            self.other_model,
            self.api_base,
            self.api_key,
            self.temperature,
            self.max_tokens,
            self.cache,
            self.program,
            self.backend,
            self.server.connected,
        }

    def choice(self, given: Mapping[Component, Any]) -> LMChoice:
        """The model as the visitor set it. A typed key is in the choice and nowhere else.

        Raises:
            InvalidInput: “Other” was picked and no model named, or a number is none.
        """
        settings: dict[str, Any] = {
            "temperature": _number(given[self.temperature], "Temperature", float, 0, 2),
            "max_tokens": _number(given[self.max_tokens], "Max tokens", int, 1, 1_000_000),
            "cache": bool(given[self.cache]),
        }
        if given[self.model] == OTHER:
            model = (given[self.other_model] or "").strip()
            if not model:
                raise InvalidInput("Name a model first, for example openai/gpt-4o-mini.")
            key = (given[self.api_key] or "").strip()
            api_base = (given[self.api_base] or "").strip() or None
            return LMChoice(model, api_base, SecretStr(key) if key else None, **settings)
        found = self.detection.choice
        option = next((row for row in self.detection.options if option_id(row) == given[self.model]), None)
        if option is None or (option.model, option.api_base) == (found.model, found.api_base):
            return replace(found, **settings)
        return LMChoice(option.model, option.api_base, **settings)

    def model_name(self, model: str, other_model: str) -> str:
        """How the picked model is called in the line of what is active."""
        if model == OTHER:
            return other_model.strip() or "no model yet"
        option = next((row for row in self.detection.options if option_id(row) == model), None)
        return option.title if option else model

    def active_html(self, model: str, other_model: str, program: str, backend: str, served: str = "") -> str:
        """What answers now; `program` is its title, `served` the version behind the served backend."""
        parts = [program, self.model_name(model, other_model), backend]
        if backend == SERVED and served:
            parts = [served, backend]
        return "<span> · </span>".join(f"<b>{html.escape(part)}</b>" for part in parts)


def option_id(option: LMOption) -> str:
    return option.model + (f" @ {option.api_base}" if option.api_base else "")


def draw_sidebar(
    detection: Detection,
    programs: Sequence[ProgramSpec],
    program: ProgramSpec,
    *,
    owner: bool = False,
    model_name: str = "",
) -> Sidebar:
    """Draw the sidebar in the order of the design.

    Args:
        program: The one to start with.
        owner: Whether versions may be logged and served from this page.
        model_name: What the log form starts with.
    """
    start = detection.choice
    with gr.Sidebar(width=304, elem_id="sidebar"):
        gr.HTML(f"<h1>{PRODUCT}</h1>", elem_id="product")
        active = gr.HTML(elem_id="active")
        with _section("Model"):
            rows = [(_row(option), option_id(option)) for option in detection.options]
            model = gr.Dropdown(
                [*rows, ("Other…", OTHER)],
                value=option_id(LMOption(start.model, "", api_base=start.api_base)),
                label="Model",
                show_label=False,
                elem_id="model",
                filterable=False,
            )
            gr.HTML(html.escape(detection.reason), elem_classes="note")
            with gr.Column(visible=False, elem_classes="fields") as other:
                other_model = gr.Textbox(label="Model string", placeholder="openai/gpt-4o-mini", max_lines=1)
                api_base = gr.Textbox(
                    label="Base URL (optional)", placeholder="http://localhost:8000/v1", max_lines=1
                )
                api_key = gr.Textbox(
                    label="API key (optional)",
                    info="Stays in this tab and in memory.",
                    type="password",
                    html_attributes=gr.InputHTMLAttributes(autocomplete="off", spellcheck=False),
                )
            with gr.Accordion("Options", open=False, elem_classes="options"):
                # Not gr.Number: an empty one reads as 0, which is a temperature (gradio 6.31).
                temperature = gr.Textbox(
                    _shown(start.temperature), label="Temperature", placeholder="model's own"
                )
                max_tokens = gr.Textbox(
                    _shown(start.max_tokens), label="Max tokens", placeholder="model's own"
                )
                cache = gr.Checkbox(start.cache, label="Answer repeated questions from the cache")
        with _section("Program"):
            picker = gr.Dropdown(
                [(spec.title, spec.name) for spec in programs],
                value=program.name,
                label="Program",
                show_label=False,
                elem_id="program",
                filterable=False,
            )
            about = gr.HTML(html.escape(program.description), elem_classes="note")
        with _section("Backend"):
            backend = gr.Radio(
                [LOCAL, SERVED],
                value=LOCAL,
                label="Backend",
                show_label=False,
                interactive=False,
                elem_id="backend",
            )
            server = draw_server_panel(owner=owner)
        versions = None
        if owner:
            with gr.Column(elem_classes="section"):
                versions = draw_version_panel(model_name)
        gr.HTML('<a href="docs" target="_blank" rel="noopener">API docs</a>', elem_id="links")
    drawn = Sidebar(
        detection,
        active,
        model,
        other,
        other_model,
        api_base,
        api_key,
        temperature,
        max_tokens,
        cache,
        picker,
        about,
        backend,
        server,
        versions,
    )
    active.value = drawn.active_html(model.value, "", program.title, LOCAL)
    return drawn


def _section(title: str) -> gr.Column:
    """A part of the sidebar under its heading."""
    column = gr.Column(elem_classes="section")
    with column:
        gr.HTML(f"<h2>{html.escape(title)}</h2>")
    return column


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


def _number(text: str | None, name: str, kind: Callable[[str], N], least: N, most: N) -> N | None:
    """The number that a visitor typed; None where the field is empty."""
    if not text or not text.strip():
        return None
    wrong = InvalidInput(f"{name} must be a number from {least:g} to {most:g}, or empty.")
    try:
        value = kind(text.strip())
    except ValueError:
        raise wrong from None
    if not least <= value <= most:
        raise wrong
    return value


def _row(option: LMOption) -> str:
    """A row of the picker; a note that does not fit beside the title is left out."""
    noted = f"{option.title} ({option.note})"
    return noted if option.note and len(noted) <= ROW_MAX_CHARS else option.title
