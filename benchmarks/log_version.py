"""From the click to the registered version, beside `mlflow.dspy.log_model` as the tutorial calls it.

Ours is registered when a new process has loaded it. Both log the same program with the same model at the same
local server, which counts the calls.
"""

from __future__ import annotations

import asyncio
import statistics
import time

from benchmarks.report import Measured, Row
from benchmarks.upstream import upstream
from dspy_demo.events import LMChoice
from dspy_demo.programs.registry import ProgramRegistry
from dspy_demo.programs.shipped import SHIPPED
from dspy_demo.settings import Settings
from dspy_demo.versions import LogRequest, VersionStore


async def measure(settings: Settings, *, quick: bool) -> Measured:
    rounds = 1 if quick else 5
    with upstream() as server:
        store = VersionStore(settings)
        programs = ProgramRegistry(SHIPPED)
        choice = LMChoice("openai/fake", server.url, cache=False)
        request = LogRequest("bench", "chain_of_thought", choice, "a description", {"team": "search"})

        started = time.perf_counter()
        await asyncio.to_thread(store.log, request, programs)
        cold_s = time.perf_counter() - started
        warm_s = []
        for _ in range(rounds):
            started = time.perf_counter()
            await asyncio.to_thread(store.log, request, programs)
            warm_s.append(time.perf_counter() - started)
        calls = server.calls
        peer_s = await asyncio.to_thread(tutorial, store.tracking_uri, server.url, 1 if quick else 3)
        peer_calls = server.calls - calls
    name = f"`log_model` as in the tutorial, {peer_calls} model calls"
    row = Row("click to registered version, warm", "s", statistics.median(warm_s), name, peer_s, most=8)
    detail = {
        "first_s": cold_s,
        "warm_worst_s": max(warm_s),
        "lm_calls": calls,
        "tutorial_lm_calls": peer_calls,
    }
    return Measured([row], detail)


def tutorial(tracking_uri: str, url: str, rounds: int) -> float:
    """Seconds of a warm ``log_model`` with signature and requirements left to be inferred."""
    import dspy
    import mlflow

    mlflow.set_tracking_uri(tracking_uri)
    mlflow.set_experiment("tutorial")
    program = dspy.ChainOfThought("question -> answer")
    taken_s = []
    with dspy.context(lm=dspy.LM("openai/fake", api_base=url, api_key="none", cache=False)):
        for _ in range(rounds):
            started = time.perf_counter()
            with mlflow.start_run():
                mlflow.dspy.log_model(
                    program,
                    name="tutorial",
                    input_example={"question": "What is 2 + 2?"},
                    registered_model_name="tutorial",
                )
            taken_s.append(time.perf_counter() - started)
    return statistics.median(taken_s)
