"""The programs that this app offers, by name."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from dspy_demo.errors import NotFound
from dspy_demo.programs.spec import ProgramSpec
from dspy_demo.settings import Settings

if TYPE_CHECKING:
    import dspy


class ProgramRegistry:
    """Specs in the order of the picker; the first one is the default. Modules are built once."""

    def __init__(self, specs: Iterable[ProgramSpec]) -> None:
        self._specs = {spec.name: spec for spec in specs}
        self._modules: dict[str, dspy.Module] = {}
        self._lock = threading.Lock()

    @property
    def default(self) -> ProgramSpec:
        return next(iter(self._specs.values()))

    def specs(self) -> list[ProgramSpec]:
        return list(self._specs.values())

    def add(self, spec: ProgramSpec, module: dspy.Module) -> None:
        """One more program, built already: a version that was loaded back. It replaces one of its name."""
        with self._lock:
            self._specs = {**self._specs, spec.name: spec}
            self._modules[spec.name] = module

    def get(self, name: str, among: Sequence[str] | None = None) -> ProgramSpec:
        """The spec of a program, `among` those that who asks may know; else `NotFound`."""
        spec = self._specs.get(name)
        if spec is None or (among is not None and name not in among):
            known = ", ".join(self._specs if among is None else among)
            raise NotFound(f"There is no program named “{str(name)[:80]}”. The programs here are: {known}.")
        return spec

    def module(self, name: str) -> dspy.Module:
        """The program itself. Every turn shares it, since it holds no state of a turn."""
        spec = self.get(name)
        with self._lock:
            if name not in self._modules:
                self._modules[name] = spec.build()
            return self._modules[name]


def offered(settings: Settings) -> ProgramRegistry:
    """The shipped programs, and first of them the one that ``--program`` names."""
    from dspy_demo.programs.own import load_program
    from dspy_demo.programs.shipped import SHIPPED

    if settings.program is None:
        return ProgramRegistry(SHIPPED)
    named = [spec for spec in SHIPPED if spec.name == settings.program]
    first = named[0] if named else load_program(settings.program)
    return ProgramRegistry([first, *(spec for spec in SHIPPED if spec.name != first.name)])
