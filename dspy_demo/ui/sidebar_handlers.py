"""What happens on an event of the sidebar's pickers."""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component

from dspy_demo.errors import NotFound
from dspy_demo.lm.detection import BUILTIN_MODEL
from dspy_demo.programs.registry import ProgramRegistry
from dspy_demo.programs.spec import ProgramSpec
from dspy_demo.ui.layout import Page, example_rows, placeholder
from dspy_demo.ui.served_program import program_behind
from dspy_demo.ui.server_lines import Connected
from dspy_demo.ui.server_panel import SERVED, served_choice
from dspy_demo.ui.sidebar import OTHER
from dspy_demo.ui.version_rows import title_of
from dspy_demo.ui.workbench import Workbench

Update = dict[Component, Any]


@dataclass(frozen=True, slots=True)
class SidebarHandlers:
    """The sidebar: what follows from a choice. No model is built or called here."""

    page: Page
    programs: ProgramRegistry
    workbench: Workbench | None = None

    def model_changed(self, model: str) -> Update:
        return {
            self.page.sidebar.other: gr.update(visible=model == OTHER),
            self.page.banner: gr.update(visible=model == BUILTIN_MODEL),
        }

    def program_changed(self, program: str, backend: str, connected: Connected | None) -> Update:
        spec = self.programs.get(program)
        answering = self._answering(spec, backend, connected)
        return {
            self.page.sidebar.about_program: html.escape(spec.description),
            self.page.chatbot: gr.update(examples=example_rows(answering)),
            self.page.composer: gr.update(placeholder=placeholder(answering)),
            **self.page.form_updates(answering),
        }

    def active(
        self, model: str, other_model: str, program: str, backend: str, connected: Connected | None
    ) -> str:
        """The line of what answers now."""
        served = ""
        if backend == SERVED and self.workbench is not None:
            state = self.workbench.servers.state()
            served = connected.title if connected else title_of(state.version)
        title = self.programs.get(program).title
        return self.page.sidebar.active_html(model, other_model, title, backend, served)

    def programs_now(self) -> Update:
        """The picker of a page that has just loaded: versions may have been loaded since it was drawn."""
        choices = [(spec.title, spec.name) for spec in self.programs.specs()]
        return {self.page.sidebar.program: gr.update(choices=choices)}

    def _answering(self, spec: ProgramSpec, backend: str, connected: Connected | None) -> ProgramSpec:
        if backend != SERVED or self.workbench is None:
            return spec
        try:
            return program_behind(served_choice(self.workbench.servers, connected), self.programs)
        except NotFound:
            return spec
