"""A version behind our model server, beside `mlflow models serve` and beside the program in this process."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

from benchmarks.processes import Process, free_port
from benchmarks.report import Measured, Row, median
from benchmarks.upstream import Pace, Upstream, upstream
from dspy_demo.backends.local import LocalBackend
from dspy_demo.backends.served import ServedBackend
from dspy_demo.chat import ChatService
from dspy_demo.events import FieldDelta, LMChoice, LocalTarget, ServedTarget, TurnFinished, TurnRequest
from dspy_demo.lm.catalog import LMCatalog
from dspy_demo.lm.choices import Detection
from dspy_demo.programs.registry import ProgramRegistry
from dspy_demo.programs.shipped import SHIPPED
from dspy_demo.serving.processes import ModelServers, Wanted
from dspy_demo.settings import Settings
from dspy_demo.versions import LogRequest, VersionStore

BODY = {"messages": [{"role": "user", "content": "What is 2 + 2?"}]}
LM_S = 1.0
#: A reply of so many tokens at this pace takes two seconds.
LIVE = Pace(tokens=40, per_second=20)


async def measure(settings: Settings, *, quick: bool) -> Measured:
    rounds, calls, streams = (1, 4, 2) if quick else (3, 48, 32)
    with upstream() as model:
        store, programs = VersionStore(settings), ProgramRegistry(SHIPPED)
        choice = LMChoice("openai/fake", model.url, cache=False)
        versions = [
            (
                await asyncio.to_thread(store.log, LogRequest("bench", "chain_of_thought", choice), programs)
            ).uri
            for _ in range(2)
        ]
        rows, detail = await _beside_mlflow(settings, store.tracking_uri, model, versions[0], rounds, calls)
        more, live = await _beside_local(settings, programs, model, choice, versions, rounds, streams)
    return Measured(rows + more, detail | live)


# Beside `mlflow models serve`


async def _beside_mlflow(
    settings: Settings, uri: str, model: Upstream, version: str, rounds: int, calls: int
) -> tuple[list[Row], dict[str, Any]]:
    ours = ["-m", "dspy_demo.serving", version, "--data-dir", str(settings.data_dir)]
    peer = ["-m", "mlflow", "models", "serve", "-m", version, "--env-manager", "local"]
    found: dict[str, list[tuple[float, float, float]]] = {"ours": [], "mlflow": []}
    for _ in range(rounds):  # in turns, so that what else the machine does meets both
        found["ours"].append(await _served(ours, uri, model, calls))
        found["mlflow"].append(await _served(peer, uri, model, calls))
    ready, answer, many = (
        {name: median([one[at] for one in times]) for name, times in found.items()} for at in range(3)
    )
    name = "mlflow models serve"
    rows = [
        Row("model server ready", "s", ready["ours"], name, ready["mlflow"]),
        Row("click to served answer", "s", answer["ours"], name, answer["mlflow"], ratio_max=0.7),
        Row(
            f"{calls} calls at once of a 1 s model, /invocations",
            "s",
            many["ours"],
            name,
            many["mlflow"],
            most=1.4,
        ),
    ]
    return rows, {"rounds": found}


async def _served(
    arguments: Sequence[str], uri: str, model: Upstream, calls: int
) -> tuple[float, float, float]:
    """Seconds until it answers /ping, until its first answer, and for all the calls."""
    port = free_port()
    environ = {
        "MLFLOW_TRACKING_URI": uri,
        "OPENAI_API_KEY": "none",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "DSPY_DEMO_TRACING": "false",
    }
    model.pace(Pace())
    command = [sys.executable, *arguments, "--host", "127.0.0.1", "--port", str(port)]
    started = time.perf_counter()
    with Process(command, port, env=environ) as process:
        await asyncio.to_thread(process.wait_until_answers, "/ping")
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(
            timeout=60, limits=limits, base_url=process.url, trust_env=False
        ) as client:
            (await client.post("/invocations", json=BODY)).raise_for_status()
            answer_s = time.perf_counter() - started
            model.pace(Pace(first_delay_s=LM_S))
            started = time.perf_counter()
            replies = await asyncio.gather(*(client.post("/invocations", json=BODY) for _ in range(calls)))
            calls_s = time.perf_counter() - started
        assert all(reply.status_code == 200 for reply in replies)
    return process.ready_s, answer_s, calls_s


# Beside the local backend


async def _beside_local(
    settings: Settings,
    programs: ProgramRegistry,
    model: Upstream,
    choice: LMChoice,
    versions: Sequence[str],
    rounds: int,
    streams: int,
) -> tuple[list[Row], dict[str, Any]]:
    quiet = settings.model_copy(update={"tracing": False})
    local = LocalBackend(quiet, programs, LMCatalog(quiet, Detection(choice, "", ())))
    service = ChatService(quiet, programs, local, ServedBackend(quiet))
    servers = ModelServers(quiet)
    os.environ["OPENAI_API_KEY"] = "none"  # the model server finds it where an owner's would be
    found: dict[str, list[float]] = {"local": [], "served": [], "switch": []}
    try:
        for version in versions:
            await servers.beside(Wanted(version))
        for number in range(rounds):
            for name in ("local", "served"):
                target = await _target(servers, choice, versions[0]) if name == "served" else None
                request = target or LocalTarget("chain_of_thought", choice)
                model.pace(Pace())
                await _turn(service, request)
                model.pace(LIVE)
                started = time.perf_counter()
                await asyncio.gather(*(_turn(service, request) for _ in range(streams)))
                found[name].append(time.perf_counter() - started)
            model.pace(Pace())
            started = time.perf_counter()
            first_s = await _turn(service, await _target(servers, choice, versions[(number + 1) % 2]))
            found["switch"].append(first_s - started)
    finally:
        await servers.aclose()
        await service.aclose()
        del os.environ["OPENAI_API_KEY"]
    served_s, local_s = median(found["served"]), median(found["local"])
    title = f"{streams} live streams of {LIVE.tokens / LIVE.per_second:g} s, all of them"
    return [
        Row(title, "s", served_s, "the local backend", local_s, ratio_max=1.3),
        Row("switch to a warm version, to its first token", "s", median(found["switch"]), most=0.3),
    ], {"live": found}


async def _target(servers: ModelServers, choice: LMChoice, version: str) -> ServedTarget:
    """What **Serve** of a version that runs already gives."""
    state = await servers.beside(Wanted(version))
    assert state.url is not None
    return ServedTarget(state.url, version)


async def _turn(service: ChatService, target: LocalTarget | ServedTarget) -> float:
    """When the first token came."""
    first_s = 0.0
    async with service.turn(TurnRequest(target, {"question": "What is 2 + 2?"})) as turn:
        async for event in turn:
            if isinstance(event, FieldDelta):
                first_s = first_s or time.perf_counter()
            last = event
    assert isinstance(last, TurnFinished), last
    return first_s
