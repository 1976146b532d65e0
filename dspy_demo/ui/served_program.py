"""Which program is behind a model server, as far as this app can know."""

from __future__ import annotations

from dspy_demo.errors import DemoError, NotFound
from dspy_demo.programs.registry import ProgramRegistry
from dspy_demo.programs.spec import InputField, ProgramSpec
from dspy_demo.ui.server_panel import ServedChoice


def program_behind(choice: ServedChoice, programs: ProgramRegistry) -> ProgramSpec:
    """The program of the same name here, else one that takes a chat message and remembers the chat."""
    try:
        return programs.get(choice.program)
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
