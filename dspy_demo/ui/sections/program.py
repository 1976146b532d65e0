"""The program: the picker, and what it is about."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr
from gradio.components import Component

from dspy_demo.errors import NotFound
from dspy_demo.programs.registry import ProgramRegistry
from dspy_demo.programs.spec import ProgramSpec
from dspy_demo.ui.chat.text import in_words
from dspy_demo.ui.components import Given, Update, dropdown, message, picked, section
from dspy_demo.ui.sections.backend import Connected, picker_or_fixed


class ProgramSection:
    """Which program answers locally, of those that are offered to this page now."""

    def __init__(self, registry: ProgramRegistry, offered: Callable[[], list[ProgramSpec]]) -> None:
        self.registry, self.offered, self.first = registry, offered, offered()[0]

    def draw(self) -> None:
        with section("Program"):
            self.fixed = gr.HTML(visible=False, elem_classes="fixed", padding=False)
            with gr.Column(elem_classes="picker") as self.group:
                self.picker = dropdown(self._rows(), self.first.name, label="Program", elem_id="program")
                self.about = gr.HTML(message(self.first.description), elem_classes="own", padding=False)
        #: What `drawn` changes.
        self.shown: set[Component] = {self.about, self.group, self.fixed}

    def wire(self, demo: gr.Blocks, now: dict[str, Any]) -> None: ...

    def drawn(self, given: Given, serving: Connected | None) -> Update:
        """Another program, or that of a served version."""
        about = {self.about: message(self.registry.get(given[self.picker]).description)}
        title = self.title(serving.info.program) if serving else ""
        return about | picker_or_fixed(self.group, self.fixed, serving, value=title)

    def title(self, program: str) -> str:
        """A program's title, where it is known here; else its name in words."""
        try:
            return self.registry.get(program).title
        except NotFound:
            return in_words(program)

    def pick(self, name: object) -> Update:
        """Choose a program, which may have come just now, where it is there."""
        return {self.picker: picked(self._rows(), name)}

    def _rows(self) -> list[tuple[str, str]]:
        return [(spec.title, spec.name) for spec in self.offered()]
