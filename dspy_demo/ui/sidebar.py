"""The sidebar: what is active, and how to change it."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import gradio as gr
from gradio.components import Component

from dspy_demo.errors import InvalidInput
from dspy_demo.events import LMChoice
from dspy_demo.lm.choices import Detection, LMOption, Offer
from dspy_demo.programs.spec import ProgramSpec
from dspy_demo.ui.model_panel import ModelPanel, draw_model_panel
from dspy_demo.ui.server_panel import LOCAL, SERVED, ServerPanel, draw_server_panel
from dspy_demo.ui.share_panel import SharePanel, draw_share_panel
from dspy_demo.ui.typed_model import TypedModel, draw_typed_model
from dspy_demo.ui.version_panel import VersionPanel, draw_version_panel

PRODUCT = "DSPy demo"
OTHER = "other"
N = TypeVar("N", int, float)
ROW_MAX_CHARS = 30


@dataclass(frozen=True, slots=True)
class ServedFacts:
    """The model and the program of the version that is served, by its name; empty where it does not tell."""

    version: str
    model: str
    program: str


@dataclass(frozen=True, slots=True)
class Picker:
    """What chooses the model or the program here, and what stands in its place while a version is served.

    A version has a model and a program of its own, so choosing others would change nothing.
    """

    group: gr.Column
    fixed: gr.HTML

    def updates(self, value: str, version: str) -> dict[Component, Any]:
        """Show the pickers; where a version is served, `value` as it has set it."""
        shown = html.escape(value or "Not told by the server")
        fixed = f"<b>{shown}</b><span>Set by {html.escape(version)}</span>"
        return {
            self.group: gr.update(visible=not version),
            self.fixed: gr.update(visible=bool(version), value=fixed if version else ""),
        }


@dataclass(frozen=True, slots=True)
class Sidebar:
    """The sidebar's widgets, and what their values mean.

    Attributes:
        of_model, of_program: The pickers as groups that can be shown as fixed.
        offer: The rows of the model picker.
        reason: Why the app started with its model; it says nothing of another one.
        server: The model server's state, below the switch.
        typed, models, versions, share: None on the guests' page.
    """

    detection: Detection
    offer: Offer
    active: gr.HTML
    of_model: Picker
    of_program: Picker
    model: gr.Dropdown
    reason: gr.HTML
    typed: TypedModel | None
    temperature: gr.Textbox
    max_tokens: gr.Textbox
    cache: gr.Checkbox
    models: ModelPanel | None
    program: gr.Dropdown
    about_program: gr.HTML
    backend: gr.Radio
    server: ServerPanel
    versions: VersionPanel | None
    share: SharePanel | None

    @property
    def inputs(self) -> set[Component]:
        """What a turn needs to know from the sidebar."""
        return {
            self.model,
            self.temperature,
            self.max_tokens,
            self.cache,
            self.program,
            self.backend,
            self.server.connected,
            *(self.typed.inputs if self.typed else ()),
        }

    @property
    def kept(self) -> dict[str, Component]:
        """What a reload finds as it was, by name. Never a key."""
        typed = {"typed": self.typed.model, "base": self.typed.api_base} if self.typed else {}
        return {
            "program": self.program,
            "model": self.model,
            "temperature": self.temperature,
            "tokens": self.max_tokens,
            "cache": self.cache,
            "backend": self.backend,
            **typed,
        }

    def choice(self, given: Mapping[Component, Any]) -> LMChoice:
        """The model as the visitor set it.

        Raises:
            InvalidInput: “Other” was picked and no model named, or a number is none.
        """
        settings: dict[str, Any] = {
            "temperature": _number(given[self.temperature], "Temperature", float, 0, 2),
            "max_tokens": _number(given[self.max_tokens], "Max tokens", int, 1, 1_000_000),
            "cache": bool(given[self.cache]),
        }
        if given[self.model] == OTHER and self.typed is not None:
            return self.typed.choice(given, settings)
        found = self.detection.choice
        option = option_ids(self.offer.rows).get(given[self.model])
        if option is None or _is_choice(option, found):
            return replace(found, **settings)
        return LMChoice(option.model, option.api_base, **settings)

    @property
    def fixed_outputs(self) -> set[Component]:
        """What `fixed_updates` changes."""
        pickers = (self.of_model, self.of_program)
        return {component for picker in pickers for component in (picker.group, picker.fixed)}

    def fixed_updates(self, served: ServedFacts | None) -> dict[Component, Any]:
        """The pickers where they choose something; None: nothing is served to this visitor."""
        facts = served or ServedFacts("", "", "")
        return {
            **self.of_model.updates(facts.model, facts.version),
            **self.of_program.updates(facts.program, facts.version),
        }

    def model_name(self, model: str, typed: str) -> str:
        """How the picked model is called in the line of what is active."""
        if model == OTHER:
            return typed.strip() or "no model yet"
        option = option_ids(self.offer.rows).get(model)
        return option.title if option else model

    def active_html(self, model: str, typed: str, program: str, backend: str, served: str = "") -> str:
        """What answers now; `program` is its title, `served` the version behind the served backend."""
        parts = [program, self.model_name(model, typed), backend]
        if backend == SERVED and served:
            parts = [served, backend]
        return "<span> · </span>".join(f"<b>{html.escape(part)}</b>" for part in parts)


def option_ids(options: Sequence[LMOption]) -> dict[str, LMOption]:
    """The options by what the picker sends for them: the model, with a number where two have the same.

    They are part of the page and of its configuration, so the address of a model's server is not in them.
    The same options have the same ids after a restart.
    """
    named: dict[str, LMOption] = {}
    seen: Counter[str] = Counter()
    for option in options:
        seen[option.model] += 1
        number = seen[option.model]
        named[option.model if number == 1 else f"{option.model}#{number}"] = option
    return named


def picker_rows(options: Sequence[LMOption], *, owner: bool = True) -> list[tuple[str, str]]:
    """The picker's choices: what a reader sees, and what is meant."""
    rows = [(_row(option), name) for name, option in option_ids(options).items()]
    return [*rows, ("Other…", OTHER)] if owner else rows


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
        owner: Whether this page may name other models, download some, and log and serve versions.
        model_name: What the log form starts with.
    """
    start = detection.choice
    with gr.Sidebar(width=304, elem_id="sidebar"):
        gr.HTML(f"<h1>{PRODUCT}</h1>", elem_id="product")
        active = gr.HTML(elem_id="active")
        with _section("Model"), _picker() as of_model:
            model = gr.Dropdown(
                picker_rows(detection.options, owner=owner),
                value=picked_id(detection),
                label="Model",
                show_label=False,
                elem_id="model",
                filterable=False,
            )
            reason = gr.HTML(
                html.escape(detection.reason), visible=bool(detection.reason), elem_classes="note"
            )
            typed = draw_typed_model() if owner else None
            models = draw_model_panel(open=detection.demo) if owner else None
            with gr.Accordion("Options", open=False, elem_classes="options"):
                # Not gr.Number: an empty one reads as 0, which is a temperature (gradio 6.31).
                temperature = gr.Textbox(
                    _shown(start.temperature), label="Temperature", placeholder="model's own"
                )
                max_tokens = gr.Textbox(
                    _shown(start.max_tokens), label="Max tokens", placeholder="model's own"
                )
                cache = gr.Checkbox(start.cache, label="Answer repeated questions from the cache")
        with _section("Program"), _picker() as of_program:
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
        versions = share = None
        if owner:
            with gr.Column(elem_classes="section"):
                versions = draw_version_panel(model_name)
            with _section("Share"):
                share = draw_share_panel()
        gr.HTML('<a href="docs" target="_blank" rel="noopener noreferrer">API docs</a>', elem_id="links")
    drawn = Sidebar(
        detection,
        Offer(detection),
        active,
        of_model,
        of_program,
        model,
        reason,
        typed,
        temperature,
        max_tokens,
        cache,
        models,
        picker,
        about,
        backend,
        server,
        versions,
        share,
    )
    active.value = drawn.active_html(model.value, "", program.title, LOCAL)
    return drawn


def _section(title: str) -> gr.Column:
    """A part of the sidebar under its heading."""
    column = gr.Column(elem_classes="section")
    with column:
        gr.HTML(f"<h2>{html.escape(title)}</h2>")
    return column


def picked_id(detection: Detection) -> str | None:
    """The id of the option that the page starts with."""
    start = detection.choice
    same = (name for name, row in option_ids(detection.options).items() if _is_choice(row, start))
    return next(same, None)


def _is_choice(option: LMOption, choice: LMChoice) -> bool:
    return (option.model, option.api_base) == (choice.model, choice.api_base)


@contextmanager
def _picker() -> Iterator[Picker]:
    """The widgets of a section that choose something, in a group of their own."""
    fixed = gr.HTML(visible=False, elem_classes="fixed")
    with gr.Column(elem_classes="picker") as group:
        yield Picker(group, fixed)


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
