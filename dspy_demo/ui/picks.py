"""What the sidebar's pickers mean for a question: where it goes, and which program answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gradio.components import Component

from dspy_demo.errors import NotFound
from dspy_demo.events import LocalTarget, ServedTarget
from dspy_demo.programs.registry import ProgramRegistry
from dspy_demo.programs.spec import ProgramSpec
from dspy_demo.ui.chat.notices import RESTART_SERVER, SERVE_A_VERSION, USE_LOCAL, Action
from dspy_demo.ui.served_program import program_behind
from dspy_demo.ui.server_panel import LOCAL, NOT_SERVED, SERVED, served_choice
from dspy_demo.ui.sidebar import Sidebar
from dspy_demo.ui.workbench import Workbench

Given = Mapping[Component, Any]


@dataclass(frozen=True, slots=True)
class SidebarPicks:
    """The `Picks` of the chat. `owner`: whether it is the owner's page."""

    sidebar: Sidebar
    programs: ProgramRegistry
    workbench: Workbench | None
    owner: bool

    @property
    def inputs(self) -> set[Component]:
        return self.sidebar.inputs

    @property
    def changes(self) -> list[Any]:
        side = self.sidebar
        return [side.program.change, side.backend.change, side.server.spoken.change]

    def answering(self, given: Given) -> ProgramSpec:
        try:
            if given[self.sidebar.backend] == SERVED:
                return self._served(given)[1]
        except NotFound:
            pass
        return self.programs.get(given[self.sidebar.program])

    def target(self, given: Given) -> tuple[LocalTarget | ServedTarget, ProgramSpec]:
        if given[self.sidebar.backend] == SERVED:
            return self._served(given)
        spec = self.programs.get(given[self.sidebar.program])
        return LocalTarget(spec.name, self.sidebar.choice(given)), spec

    def ways_out(self, given: Given, error: Exception) -> list[Action]:
        if given.get(self.sidebar.backend) != SERVED or not isinstance(error, NotFound):
            return []
        phase = self.workbench.servers.state().phase if self.workbench else "none"
        if not self.owner or phase == "starting":
            return [USE_LOCAL]
        return [SERVE_A_VERSION if phase == "none" else RESTART_SERVER, USE_LOCAL]

    def use_local(self) -> dict[Component, Any]:
        return {self.sidebar.backend: LOCAL}

    def _served(self, given: Given) -> tuple[ServedTarget, ProgramSpec]:
        if self.workbench is None:
            raise NotFound(NOT_SERVED)
        choice = served_choice(self.workbench.servers, given[self.sidebar.server.connected])
        return choice.target, program_behind(choice, self.programs)
