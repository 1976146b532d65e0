"""What tracing adds to a turn: CPU of the event loop's thread, and of the writing thread, on beside off."""

from __future__ import annotations

import asyncio
import time
from statistics import median

from benchmarks.report import Measured, Row
from benchmarks.upstream import upstream
from dspy_demo.backends.local import LocalBackend
from dspy_demo.chat import ChatService
from dspy_demo.events import LMChoice, LocalTarget, TurnRequest
from dspy_demo.lm.catalog import LMCatalog
from dspy_demo.lm.choices import Detection
from dspy_demo.programs.registry import ProgramRegistry
from dspy_demo.programs.shipped import SHIPPED
from dspy_demo.settings import Settings
from dspy_demo.tracing.tracer import tracer_for
from dspy_demo.versions.tracking import Tracking


async def measure(settings: Settings, *, quick: bool) -> Measured:
    turns, rounds = (5, 1) if quick else (100, 6)
    loop_s: dict[bool, list[float]] = {False: [], True: []}
    process_s: dict[bool, list[float]] = {False: [], True: []}
    with upstream() as server:
        choice = LMChoice("openai/fake", server.url, cache=False)
        sides = {on: _service(settings.model_copy(update={"tracing": on}), choice) for on in (False, True)}
        for service in sides.values():
            await _cpu_of_a_turn_s(service, choice)
            await asyncio.to_thread(service.tracer.flush, 60.0)
        for _ in range(rounds):  # in turns, so that what else the machine does meets both
            for on, service in sides.items():
                started = time.process_time()
                loop_s[on] += [await _cpu_of_a_turn_s(service, choice) for _ in range(turns)]
                await asyncio.to_thread(service.tracer.flush, 60.0)  # no writing beside the other side
                process_s[on].append((time.process_time() - started) / turns)
        for service in sides.values():
            await service.aclose()
            await asyncio.to_thread(service.tracer.close, 60.0)
    rows = [
        Row(title, "ms", median(found[True]) * 1e3, "tracing off", median(found[False]) * 1e3, ratio_max=1.1)
        for title, found in (
            ("CPU of the event loop for a turn, tracing on", loop_s),
            ("CPU of the process for a turn, with the thread that writes to MLflow", process_s),
        )
    ]
    return Measured(rows, {"process_s": {str(on): found for on, found in process_s.items()}})


def _service(settings: Settings, choice: LMChoice) -> ChatService:
    programs = ProgramRegistry(SHIPPED)
    catalog = LMCatalog(settings, Detection(choice, "", ()))
    tracer = tracer_for(settings, Tracking(settings))
    return ChatService(settings, programs, LocalBackend(settings, programs, catalog), tracer=tracer)


async def _cpu_of_a_turn_s(service: ChatService, choice: LMChoice) -> float:
    """CPU seconds of this thread, which the event loop is."""
    started = time.thread_time()
    await service.answer(TurnRequest(LocalTarget("chain_of_thought", choice), {"question": "one more"}))
    return time.thread_time() - started
