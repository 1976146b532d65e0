"""The program: the picker, and what it is about."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import gradio as gr

from dspy_demo.errors import DemoError, NotFound
from dspy_demo.programs.registry import ProgramRegistry
from dspy_demo.programs.spec import InputField, ProgramSpec
from dspy_demo.ui.chat.text import in_words
from dspy_demo.ui.components import Update, message, section
from dspy_demo.ui.sections.backend import BackendSection, Connected, picker_or_fixed


class ProgramSection:
    """Which program answers locally.

    Args:
        registry: Every program of the app.
        offered: Those that this page may pick, now.
    """

    def __init__(
        self, registry: ProgramRegistry, offered: Callable[[], list[ProgramSpec]], backend: BackendSection
    ) -> None:
        self.registry = registry
        self.offered = offered
        self.first = offered()[0]
        self._backend = backend

    def draw(self) -> None:
        with section("Program"):
            self.fixed = gr.HTML(visible=False, elem_classes="fixed", padding=False)
            with gr.Column(elem_classes="picker") as self.group:
                self.picker = gr.Dropdown(
                    self._rows(),
                    value=self.first.name,
                    label="Program",
                    show_label=False,
                    elem_id="program",
                    filterable=False,
                )
                self.about = gr.HTML(message(self.first.description), elem_classes="own", padding=False)

    def wire(self, demo: gr.Blocks, now: dict[str, Any]) -> None:
        events = [self.picker.change, self._backend.switch.change, self._backend.status.change]
        inputs = [self.picker, self._backend.switch, self._backend.connected]
        gr.on(events, self.changed, inputs, {self.about, self.group, self.fixed}, **now)

    async def changed(self, program: str, backend: str, connected: Connected | None) -> Update:
        """Another program, or another backend; a served version has a program of its own."""
        facts = self._backend.facts(backend, connected)
        title = self.title(facts.program) if facts else ""
        about = {self.about: message(self.registry.get(program).description)}
        return about | picker_or_fixed(self.group, self.fixed, facts, value=title)

    def title(self, program: str) -> str:
        """A program's title, where it is known here; else its name in words."""
        try:
            return self.registry.get(program).title
        except NotFound:
            return in_words(program)

    def pick(self, name: str) -> Update:
        """Choose a program that may have come just now."""
        return {self.picker: gr.update(choices=self._rows(), value=name)}

    def restored(self, kept: Mapping[str, Any]) -> Update:
        """The picker of a page that has just loaded, as it was before where it can be so now."""
        known = [spec.name for spec in self.offered()]
        value = {"value": kept["program"]} if kept.get("program") in known else {}
        return {self.picker: gr.update(choices=self._rows(), **value)}

    def _rows(self) -> list[tuple[str, str]]:
        return [(spec.title, spec.name) for spec in self.offered()]


def program_behind(name: str, programs: ProgramRegistry) -> ProgramSpec:
    """The program of this name here, else one that takes a chat message and remembers the chat."""
    try:
        return programs.get(name)
    except NotFound:
        return _ANY


def _not_here() -> None:
    raise DemoError("A program behind a model server cannot be built here.")


_ANY = ProgramSpec(
    name="served",
    title="Served version",
    description="",
    build=_not_here,
    inputs=(InputField("text"),),
    chat_field="text",
    history_field="history",
)
