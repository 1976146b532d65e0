"""Run the scenarios: each measures us beside what people would use instead, on the same work in one run."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import signal
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.report import Measured, table
from dspy_demo.settings import Settings, prepare_libraries

SCENARIOS = (
    "log_version",
    "tracing",
    "served_calls",
    "streams",
    "page",
    "live_chats",
    "browser",
    "start",
    "local_model",
    "soak",
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join(SCENARIOS)}; all without one"
    )
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    parser.add_argument("--plots", type=Path, help="also draw them into this folder")
    parser.add_argument("--quick", action="store_true", help="few rounds: that it runs, not what it measures")
    options = parser.parse_args()
    if unknown := set(options.names) - set(SCENARIOS):
        parser.error(f"no scenario named {', '.join(sorted(unknown))}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers of a scenario end too
    results: dict[str, Any] = {"machine": machine()}
    rows = []
    for name in options.names or SCENARIOS:
        started = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="benchmark-", ignore_cleanup_errors=True) as folder:
            found = asyncio.run(run(name, Path(folder), quick=options.quick))
        rows += found.rows
        taken_s = time.monotonic() - started
        results[name] = {
            "rows": [row.as_json() for row in found.rows],
            "detail": found.detail,
            "load_average": os.getloadavg()[0],
            "taken_s": round(taken_s, 1),
        }
        print(f"{name}: {taken_s:.0f} s, load average {os.getloadavg()[0]:.1f}", file=sys.stderr, flush=True)
        if options.json:  # after each: a later one may fail
            options.json.write_text(json.dumps(results, indent=2))
    print(table(rows))
    if options.plots:
        from benchmarks.plots import draw

        draw(results, options.plots)


async def run(name: str, folder: Path, *, quick: bool) -> Measured:
    """One scenario in a data folder of its own."""
    settings = Settings(data_dir=folder)
    environment = dict(os.environ)
    prepare_libraries(settings, os.environ)
    scenario = __import__(f"benchmarks.{name}", fromlist=["measure"])
    try:
        measured: Measured = await scenario.measure(settings, quick=quick)
    finally:  # MLflow's set_tracking_uri writes there, and the processes of the next scenario would read it
        os.environ.clear()
        os.environ.update(environment)
    return measured


def machine() -> dict[str, object]:
    libraries = {name: version(name) for name in ("dspy", "gradio", "mlflow", "litellm")}
    return {
        "date": time.strftime("%Y-%m-%d"),
        "python": sys.version.split()[0],
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        **libraries,
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


if __name__ == "__main__":
    main()
