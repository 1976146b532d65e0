"""Which programs an app offers, by its settings."""

from __future__ import annotations

from dspy_demo.programs.registry import ProgramRegistry
from dspy_demo.programs.shipped import SHIPPED
from dspy_demo.settings import Settings


def offered(settings: Settings) -> ProgramRegistry:
    """The shipped programs, and first of them the one that ``--program`` names.

    Raises:
        ProgramLoadError: It cannot be loaded.
    """
    shipped = {spec.name: spec for spec in SHIPPED}
    if settings.program is None:
        return ProgramRegistry(SHIPPED)
    if settings.program in shipped:
        first = shipped.pop(settings.program)
    else:
        from dspy_demo.programs.loading import load_program

        first = load_program(settings.program)
        shipped.pop(first.name, None)
    return ProgramRegistry([first, *shipped.values()])
