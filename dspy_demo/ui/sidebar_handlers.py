"""What happens on an event of the sidebar's pickers."""

from __future__ import annotations

import html
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component

from dspy_demo.errors import NotFound
from dspy_demo.lm.choices import DEMO_MODEL
from dspy_demo.programs.registry import ProgramRegistry
from dspy_demo.programs.spec import ProgramSpec
from dspy_demo.ui.chat.text import in_words
from dspy_demo.ui.layout import Page
from dspy_demo.ui.server_lines import Connected
from dspy_demo.ui.server_panel import LOCAL, SERVED
from dspy_demo.ui.sidebar import OTHER, ServedFacts, picked_id, picker_rows
from dspy_demo.ui.version_rows import title_of
from dspy_demo.ui.workbench import Workbench

Update = dict[Component, Any]


@dataclass(frozen=True, slots=True)
class SidebarHandlers:
    """The sidebar: what follows from a choice. No model is built or called here."""

    page: Page
    programs: ProgramRegistry
    offered: Callable[[], list[ProgramSpec]]
    workbench: Workbench | None = None

    def model_changed(self, model: str, backend: str) -> Update:
        side = self.page.sidebar
        typed, found = side.typed, side.detection
        picked = picked_id(found) == model
        return {
            side.reason: gr.update(visible=picked and bool(found.reason)),
            self.page.banner: gr.update(visible=model == DEMO_MODEL and backend == LOCAL),
            **({typed.group: gr.update(visible=model == OTHER)} if typed else {}),
        }

    def program_changed(self, program: str, backend: str, connected: Connected | None) -> Update:
        spec = self.programs.get(program)
        return {
            self.page.sidebar.about_program: html.escape(spec.description),
            **self.page.sidebar.fixed_updates(self._served(backend, connected)),
        }

    def active(self, given: dict[Component, Any]) -> str:
        """The line of what answers now."""
        side = self.page.sidebar
        backend, connected = given[side.backend], given[side.server.connected]
        typed = given[side.typed.model] or "" if side.typed else ""
        served = self._served(backend, connected)
        title = self.programs.get(given[side.program]).title
        return side.active_html(given[side.model], typed, title, backend, served.version if served else "")

    def restore(self, kept: Any) -> Update:
        """The pickers of a page that has just loaded, as they were before where they can be so now."""
        side = self.page.sidebar
        given = kept if isinstance(kept, dict) else {}
        programs = [(spec.title, spec.name) for spec in self.offered()]
        models = picker_rows(side.offer.rows, owner=self.page.owner)
        served = self.workbench is not None and self.workbench.servers.state().phase == "ready"
        offered = {
            "program": [name for _, name in programs],
            "model": [name for _, name in models],
            "backend": [LOCAL, SERVED] if served else [LOCAL],
        }
        drawn: Update = {
            side.kept[name]: gr.update(value=given[name])
            for name, values in offered.items()
            if given.get(name) in values
        }
        drawn[side.program] = gr.update(choices=programs) | drawn.get(side.program, {})
        drawn[side.model] = gr.update(choices=models) | drawn.get(side.model, {})
        return drawn

    def _served(self, backend: str, connected: Connected | None) -> ServedFacts | None:
        """What answers in place of the picked model and program, if anything does."""
        if backend != SERVED or self.workbench is None:
            return None
        if connected is not None:
            info = connected.info
            return ServedFacts(connected.title, info.lm or "", self._title(info.program))
        state = self.workbench.servers.state()
        return ServedFacts(title_of(state.version), state.lm, self._title(state.program))

    def _title(self, program: str) -> str:
        """A program's title, where it is known here; else its name in words."""
        try:
            return self.programs.get(program).title
        except NotFound:
            return in_words(program)
