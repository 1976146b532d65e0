"""The program in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING

from dspy_demo.adapters import adapter_for
from dspy_demo.events import Event, LocalTarget, TurnRequest, TurnStarted
from dspy_demo.lm.catalog import LMCatalog
from dspy_demo.programs.registry import ProgramRegistry
from dspy_demo.settings import Settings

if TYPE_CHECKING:
    import dspy


class LocalBackend:
    """Runs programs of the registry with models of the catalog."""

    name = "local"

    def __init__(self, settings: Settings, programs: ProgramRegistry, catalog: LMCatalog) -> None:
        self._settings, self._programs, self._catalog = settings, programs, catalog

    async def stream(self, request: TurnRequest) -> AsyncGenerator[Event, None]:
        target = request.target
        assert isinstance(target, LocalTarget)
        spec = self._programs.get(target.program)
        yield TurnStarted(self.name, target.lm.model)
        program, lm = await self.prepare(target)
        from dspy_demo.streaming.turn import run_turn

        adapter = adapter_for(spec.adapter or self._settings.adapter)
        async for event in run_turn(program, spec, request, lm=lm, adapter=adapter, settings=self._settings):
            yield event

    async def prepare(self, target: LocalTarget) -> tuple[dspy.Module, dspy.LM]:
        """The program and the model of a turn. The first time this imports and builds them, for seconds."""

        def built() -> tuple[dspy.Module, dspy.LM]:
            import dspy_demo.streaming.turn  # noqa: F401

            return self._programs.module(target.program), self._catalog.lm(target.lm)

        return await asyncio.to_thread(built)

    async def aclose(self) -> None:
        await self._catalog.aclose()
