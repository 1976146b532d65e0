"""The header: what answers now, sharing, and a menu. Its buttons open the sections of the sidebar."""

from __future__ import annotations

from typing import Any

import gradio as gr
from gradio.components import Component

from dspy_demo.lm.choices import DEMO_MODEL
from dspy_demo.ui.components import Update, action_html, template
from dspy_demo.ui.sections.backend import LOCAL
from dspy_demo.ui.sections.picks import SidebarPicks


class HeaderSection:
    """The line above all views, and the banner of the demo engine below it."""

    def __init__(self, picks: SidebarPicks) -> None:
        self._picks = picks

    def draw(self) -> None:
        start = {component: component.value for component in self._picks.inputs}
        with gr.Row(elem_id="topbar"):
            self.active = action_html(self._html(start), elem_id="active")
            self.tools = action_html(template("menu.html", owner=self._picks.owner), elem_id="tools")

    def draw_banner(self) -> None:
        self.banner = action_html(
            template("banner.html", owner=self._picks.owner),
            visible=self._picks.model.detection.demo,
            elem_id="banner",
        )

    def wire(self, demo: gr.Blocks, now: dict[str, Any]) -> None:
        picks = self._picks
        events = [*picks.changes, picks.model.picker.change]
        events += [field.change for field in picks.model.typed[:1]]
        gr.on(events, self.changed, picks.inputs, {self.active, self.banner}, **now)

    async def changed(self, given: dict[Component, Any]) -> Update:
        """Something else answers now."""
        demo = given[self._picks.model.picker] == DEMO_MODEL and given[self._picks.backend.switch] == LOCAL
        return {self.active: self._html(given), self.banner: gr.update(visible=demo)}

    def _html(self, given: dict[Component, Any]) -> str:
        program, model, backend = self._picks.program, self._picks.model, self._picks.backend
        facts = backend.facts(given[backend.switch], given[backend.connected])
        return template(
            "active.html",
            program=program.title(facts.program if facts else given[program.picker]),
            model=facts.model if facts else model.title(given),
            version=facts.version if facts else "",
        )
