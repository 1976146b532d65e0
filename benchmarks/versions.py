"""From the click to the registered version, and to the first answer that it serves.

Both houses log the same program by ``POST /versions`` and serve it by their own model server; beside them
stand `mlflow.dspy.log_model` as the tutorial calls it, and ``mlflow models serve``.
"""

import os
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import httpx

from benchmarks.houses import House, houses
from benchmarks.processes import running
from benchmarks.report import Row, median
from benchmarks.upstream import Upstream, upstream
from tests.environment import scrubbed
from tests.fake_openai import free_port
from tests.processes import REPO

BODY = {"messages": [{"role": "user", "content": "What is 2 + 2?"}]}
TUTORIAL, MLFLOW = "`log_model` as in the tutorial", "mlflow models serve"


async def measure(before: Path | None, folder: Path, *, quick: bool) -> list[Row]:
    rounds = 1 if quick else 3
    logged_s: dict[str, list[float]] = defaultdict(list)
    served_s: dict[str, list[float]] = defaultdict(list)
    with upstream() as model:
        for house in houses(before):
            with house.app(model, data_dir=folder / house.name) as app:
                for number in range(rounds + 1):
                    taken_s = _timed(app.url + "/versions", {"name": "bench"})
                    if number:  # the first one makes the database
                        logged_s[house.name].append(taken_s)
        for _ in range(rounds):
            for house in houses(before):
                served_s[house.name].append(_served_s(house, folder / house.name))
        served_s[MLFLOW].append(_served_by_mlflow_s(folder / "ours"))
        logged_s[TUTORIAL].append(_tutorial_s(model, folder, rounds))
    return [
        *Row.beside("click to registered version", "s", _medians(logged_s), {"before": 1.5}),
        *Row.beside("click to served answer", "s", _medians(served_s), {"before": 1.5}),
    ]


def _medians(times: dict[str, list[float]]) -> dict[str, float]:
    return {name: median(values) for name, values in times.items()}


def _timed(url: str, body: dict[str, object]) -> float:
    started = time.perf_counter()
    httpx.post(url, json=body, timeout=120, trust_env=False).raise_for_status()
    return time.perf_counter() - started


def _served_s(house: House, data_dir: Path) -> float:
    started = time.perf_counter()
    command = ("-m", "dspy_demo.serving", "models:/bench/1")
    with house.server(*command, ready_path="/ping", data_dir=data_dir) as server:
        _timed(server.url + "/invocations", BODY)
        return time.perf_counter() - started


def _served_by_mlflow_s(data_dir: Path) -> float:
    started, port = time.perf_counter(), free_port()
    command = ["-m", "mlflow", "models", "serve", "-m", "models:/bench/1", "--env-manager", "local"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    env = {
        "MLFLOW_TRACKING_URI": f"sqlite:///{data_dir}/mlflow.db",
        "OPENAI_API_KEY": "none",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    with running(command, port, ready_path="/ping", env=env) as server:
        _timed(server.url + "/invocations", BODY)
        return time.perf_counter() - started


def _tutorial_s(model: Upstream, folder: Path, rounds: int) -> float:
    """In a process of its own, since `mlflow.set_tracking_uri` is for a whole process."""
    command = [sys.executable, "-m", "benchmarks.peers.tutorial_log", model.url, str(folder), str(rounds)]
    environ = scrubbed(os.environ, folder)
    done = subprocess.run(
        command, cwd=REPO, env=environ, capture_output=True, text=True, check=True, timeout=300
    )
    return float(done.stdout.split()[-1])
