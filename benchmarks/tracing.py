"""What tracing adds to a turn: CPU of the event loop's thread, and of the writing thread, on beside off."""

from __future__ import annotations

import asyncio
import time

from benchmarks.report import Measured, Row
from benchmarks.upstream import upstream
from dspy_demo.backends.local import LocalBackend
from dspy_demo.chat import ChatService
from dspy_demo.events import LMChoice, LocalTarget, TurnRequest
from dspy_demo.lm.catalog import LMCatalog
from dspy_demo.lm.detection import Detection
from dspy_demo.programs.registry import ProgramRegistry
from dspy_demo.programs.shipped import SHIPPED
from dspy_demo.settings import Settings
from dspy_demo.tracing.tracer import tracer_for
from dspy_demo.versions.tracking import Tracking


async def measure(settings: Settings, *, quick: bool) -> Measured:
    turns, rounds = (5, 1) if quick else (60, 5)
    with upstream() as server:
        choice = LMChoice("openai/fake", server.url, cache=False)
        sides = {on: _service(settings.model_copy(update={"tracing": on}), choice) for on in (False, True)}
        for service in sides.values():
            await _cpu_per_turn_s(service, choice, 3)
        best = {False: float("inf"), True: float("inf")}
        for _ in range(rounds):  # in turns, so that what else the machine does meets both
            for on, service in sides.items():
                best[on] = min(best[on], await _cpu_per_turn_s(service, choice, turns))
        process_before_s = time.process_time()
        for service in sides.values():
            await service.aclose()
            await asyncio.to_thread(service.tracer.close, 60.0)
        writing_s = time.process_time() - process_before_s
    row = Row(
        "CPU of the event loop for a turn, tracing on",
        "ms",
        best[True] * 1e3,
        "tracing off",
        best[False] * 1e3,
        ratio_max=1.1,
    )
    return Measured([row], {"left_to_write_s": writing_s})


def _service(settings: Settings, choice: LMChoice) -> ChatService:
    programs = ProgramRegistry(SHIPPED)
    catalog = LMCatalog(settings, Detection(choice, "", ()))
    tracer = tracer_for(settings, Tracking(settings))
    return ChatService(settings, programs, LocalBackend(settings, programs, catalog), tracer=tracer)


async def _cpu_per_turn_s(service: ChatService, choice: LMChoice, turns: int) -> float:
    """CPU seconds of this thread, which the event loop is, for one turn."""
    started = time.thread_time()
    for number in range(turns):
        request = TurnRequest(LocalTarget("chain_of_thought", choice), {"question": f"question {number}"})
        await service.answer(request)
        await asyncio.sleep(0)
    return (time.thread_time() - started) / turns
