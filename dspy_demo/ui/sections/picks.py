"""What is picked in the sidebar, as one answer: where a question goes, and which program takes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gradio.components import Component

from dspy_demo.errors import NotFound
from dspy_demo.events import LocalTarget, ServedTarget
from dspy_demo.programs.spec import ProgramSpec
from dspy_demo.ui.chat.widgets import RESTART_SERVER, SERVE_A_VERSION, USE_LOCAL, Action
from dspy_demo.ui.sections.backend import LOCAL, SERVED, BackendSection, served_choice
from dspy_demo.ui.sections.model import ModelSection
from dspy_demo.ui.sections.program import ProgramSection, program_behind

Given = Mapping[Component, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class SidebarPicks:
    """The three sections that choose who answers.

    Attributes:
        owner: Whether it is the owner's page.
    """

    model: ModelSection
    program: ProgramSection
    backend: BackendSection
    owner: bool

    @property
    def inputs(self) -> set[Component]:
        """What the methods want as `given`, with the values."""
        backend = self.backend
        return {*self.model.inputs, self.program.picker, backend.switch, backend.connected}

    @property
    def changes(self) -> list[Any]:
        """Events after which another program may answer."""
        return [self.program.picker.change, self.backend.switch.change, self.backend.status.change]

    def answering(self, given: Given) -> ProgramSpec:
        """The program that would answer."""
        try:
            if given[self.backend.switch] == SERVED:
                return self.served(given)[1]
        except NotFound:
            pass
        return self.program.registry.get(given[self.program.picker])

    def target(self, given: Given) -> tuple[LocalTarget | ServedTarget, ProgramSpec]:
        """Where a turn runs, and the program that answers there.

        Raises:
            DemoError: Nothing can be asked there; the sentence says why.
        """
        return self.served(given) if given[self.backend.switch] == SERVED else self.local(given)

    def local(self, given: Given) -> tuple[LocalTarget, ProgramSpec]:
        """The picked program with the picked model, in this process."""
        spec = self.program.registry.get(given[self.program.picker])
        return LocalTarget(spec.name, self.model.choice(given)), spec

    def served(self, given: Given) -> tuple[ServedTarget, ProgramSpec]:
        """The model server that this visitor uses."""
        target, program = served_choice(self.backend.servers, given[self.backend.connected])
        return target, program_behind(program, self.program.registry)

    def ways_out(self, given: Given, error: Exception) -> list[Action]:
        """The buttons that help where `target` raised `error`."""
        if given.get(self.backend.switch) != SERVED or not isinstance(error, NotFound):
            return []
        phase = self.backend.servers.state().phase
        if not self.owner or phase == "starting":
            return [USE_LOCAL]
        return [SERVE_A_VERSION if phase == "none" else RESTART_SERVER, USE_LOCAL]

    def use_local(self) -> dict[Component, Any]:
        """Let turns run in this process."""
        return {self.backend.switch: LOCAL}
