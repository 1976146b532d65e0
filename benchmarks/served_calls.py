"""The model server beside `mlflow models serve`: time to be ready, and 48 calls at once of a 1 s model."""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import httpx

from benchmarks.upstream import upstream
from dspy_demo.events import LMChoice
from dspy_demo.programs.registry import ProgramRegistry
from dspy_demo.programs.shipped import SHIPPED
from dspy_demo.settings import Settings
from dspy_demo.versions import LogRequest, VersionStore
from tests.fake_openai import FakeOpenAI, Reply, free_port

BODY = {"messages": [{"role": "user", "content": "What is 2 + 2?"}]}


async def measure(settings: Settings, *, quick: bool) -> dict[str, Any]:
    rounds, calls = (1, 4) if quick else (3, 48)
    with upstream() as server:
        store = VersionStore(settings)
        choice = LMChoice("openai/fake", server.url, cache=False)
        request = LogRequest("bench", "chain_of_thought", choice)
        version = await asyncio.to_thread(store.log, request, ProgramRegistry(SHIPPED))
        ours = [sys.executable, "-m", "dspy_demo.serving", version.uri, "--data-dir", str(settings.data_dir)]
        peer = [
            sys.executable,
            "-m",
            "mlflow",
            "models",
            "serve",
            "-m",
            version.uri,
            "--env-manager",
            "local",
        ]
        found: dict[str, list[tuple[float, float]]] = {"ours": [], "mlflow": []}
        for _ in range(rounds):  # in turns, so that what else the machine does meets both
            found["ours"].append(await _served(ours, store.tracking_uri, server, calls))
            found["mlflow"].append(await _served(peer, store.tracking_uri, server, calls))
    ready_s = {name: statistics.median(pair[0] for pair in pairs) for name, pairs in found.items()}
    calls_s = {name: statistics.median(pair[1] for pair in pairs) for name, pairs in found.items()}
    return {
        "calls": calls,
        "ready_s": {name: round(value, 2) for name, value in ready_s.items()},
        "ready_ratio": round(ready_s["ours"] / ready_s["mlflow"], 2),
        "calls_s": {name: round(value, 2) for name, value in calls_s.items()},
        "calls_ratio": round(calls_s["ours"] / calls_s["mlflow"], 2),
    }


async def _served(command: list[str], uri: str, server: FakeOpenAI, calls: int) -> tuple[float, float]:
    """Seconds until it answers /ping, and seconds for all the calls."""
    port = free_port()
    environ = {
        **os.environ,
        "MLFLOW_TRACKING_URI": uri,
        "OPENAI_API_KEY": "none",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    started = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        *command,
        *("--host", "127.0.0.1", "--port", str(port)),
        env=environ,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(
            timeout=60, limits=limits, base_url=f"http://127.0.0.1:{port}"
        ) as client:
            while not await _answers(client):
                await asyncio.sleep(0.02)
            ready_s = time.perf_counter() - started
            await client.post("/invocations", json=BODY)
            server.respond_with(lambda _: Reply(first_delay_s=1.0))
            started = time.perf_counter()
            replies = await asyncio.gather(*(client.post("/invocations", json=BODY) for _ in range(calls)))
            calls_s = time.perf_counter() - started
            server.respond_with(None)
            assert all(reply.status_code == 200 for reply in replies)
    finally:
        os.killpg(process.pid, 15)
        await process.wait()
    return ready_s, calls_s


async def _answers(client: httpx.AsyncClient) -> bool:
    try:
        return (await client.get("/ping")).status_code == 200
    except httpx.TransportError:
        return False
