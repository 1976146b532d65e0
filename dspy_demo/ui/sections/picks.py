"""The program's picker, and what is picked in the sidebar as one answer."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component

from dspy_demo.errors import DemoError, NotFound
from dspy_demo.events import LocalTarget, ServedTarget
from dspy_demo.lm.choices import DEMO_MODEL
from dspy_demo.programs.registry import ProgramRegistry
from dspy_demo.programs.spec import InputField, ProgramSpec
from dspy_demo.ui.chat.text import in_words
from dspy_demo.ui.chat.widgets import RESTART_SERVER, SERVE_A_VERSION, USE_LOCAL, Action
from dspy_demo.ui.components import Given, Update, action_html, dropdown, message, picked, section, template
from dspy_demo.ui.sections.backend import (
    SERVED,
    BackendSection,
    Connected,
    picker_or_fixed,
    served_choice,
)
from dspy_demo.ui.sections.model import ModelSection


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
        self.shown: set[Component] = {self.about, self.group, self.fixed}

    def wire(self, demo: gr.Blocks, now: dict[str, Any]) -> None: ...

    def drawn(self, given: Given, serving: Connected | None) -> Update:
        about = {self.about: message(self.registry.get(given[self.picker]).description)}
        title = self.title(given, serving) if serving else ""
        return about | picker_or_fixed(self.group, self.fixed, serving, value=title)

    def title(self, given: Given, serving: Connected | None) -> str:
        """The program that answers; one that only a server knows by its name in words."""
        if serving is None:
            return self.registry.get(given[self.picker]).title
        try:
            return self.registry.get(serving.info.program).title
        except NotFound:
            return in_words(serving.info.program)

    def pick(self, name: object) -> Update:
        return {self.picker: picked(self._rows(), name)}

    def _rows(self) -> list[tuple[str, str]]:
        return [(spec.title, spec.name) for spec in self.offered()]


@dataclass(eq=False, kw_only=True)
class Picks:
    """The sections of the sidebar that choose who answers, and the line above all views that names it.

    The methods want the values of `inputs` as `given`; `owner` says whether it is the owner's page.
    """

    model: ModelSection
    program: ProgramSection
    backend: BackendSection
    owner: bool

    def draw(self) -> None:
        start = {component: component.value for component in self.inputs}
        with gr.Row(elem_id="topbar"):
            self.active = action_html(self._html(start, None), elem_id="active")
            action_html(template("menu.html", owner=self.owner), elem_id="tools")

    def draw_banner(self) -> None:
        """What stands above the chat while the demo engine answers."""
        html = template("banner.html", owner=self.owner)
        self.banner = action_html(html, visible=self.model.detection.demo, elem_id="banner")

    def wire(self, demo: gr.Blocks, now: dict[str, Any]) -> None:
        outputs: set[Component] = {self.active, self.banner, *self.model.shown, *self.program.shown}
        events = [*self.changes, self.model.picker.change, *(field.blur for field in self.model.typed[:1])]
        gr.on(events, self.changed, self.inputs, outputs, **now)

    async def changed(self, given: dict[Component, Any]) -> Update:
        """Something else answers now: also a served version, which has set its model and program."""
        serving = self.backend.serving(given)
        banner = gr.update(visible=given[self.model.picker] == DEMO_MODEL and serving is None)
        own = {self.active: self._html(given, serving), self.banner: banner}
        return own | self.model.drawn(given, serving) | self.program.drawn(given, serving)

    def _html(self, given: Given, serving: Connected | None) -> str:
        model, version = (serving.info.lm, serving.title) if serving else (self.model.title(given), "")
        program = self.program.title(given, serving)
        return template("active.html", program=program, model=model, version=version)

    @property
    def inputs(self) -> set[Component]:
        return {*self.model.inputs, self.program.picker, self.backend.switch, self.backend.connected}

    @property
    def changes(self) -> list[Any]:
        return [self.program.picker.change, self.backend.switch.change, self.backend.status.change]

    def answering(self, given: Given) -> ProgramSpec:
        try:
            return self.target(given)[1]
        except DemoError:
            return self.program.registry.get(given[self.program.picker])

    def target(self, given: Given) -> tuple[LocalTarget | ServedTarget, ProgramSpec]:
        """Where a turn runs, and the program that answers there; a `DemoError` where nothing can be asked."""
        return self.served(given) if given[self.backend.switch] == SERVED else self.local(given)

    def local(self, given: Given) -> tuple[LocalTarget, ProgramSpec]:
        spec = self.program.registry.get(given[self.program.picker])
        return LocalTarget(spec.name, self.model.choice(given)), spec

    def served(self, given: Given) -> tuple[ServedTarget, ProgramSpec]:
        target, program = served_choice(self.backend.servers, given[self.backend.connected])
        return target, program_behind(program, self.program.registry)

    def ways_out(self, given: Given, error: Exception) -> list[Action]:
        """The buttons that help where `target` raised `error`."""
        if given.get(self.backend.switch) != SERVED or not isinstance(error, NotFound):
            return []
        phase = self.backend.servers.state().phase
        server = SERVE_A_VERSION if phase == "none" else RESTART_SERVER
        return [server, USE_LOCAL] if self.owner and phase != "starting" else [USE_LOCAL]


def program_behind(name: str, programs: ProgramRegistry) -> ProgramSpec:
    """The program of this name here, else one that takes a chat message and remembers the chat."""
    try:
        return programs.get(name)
    except NotFound:
        text: dict[str, Any] = {"inputs": (InputField("text"),), "chat_field": "text"}
        text |= {"description": "", "history_field": "history", "build": lambda: None}  # the server builds it
        return ProgramSpec(name="served", title="Served version", **text)
