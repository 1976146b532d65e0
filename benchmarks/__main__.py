"""Run the scenarios and print one JSON object each: figures of ours, of the peer, and their ratio."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from dspy_demo.settings import Settings, prepare_libraries

SCENARIOS = ("log_version", "tracing", "served_calls")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join(SCENARIOS)}; all without one"
    )
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    parser.add_argument("--quick", action="store_true", help="few rounds: that it runs, not what it measures")
    options = parser.parse_args()
    if unknown := set(options.names) - set(SCENARIOS):
        parser.error(f"no scenario named {', '.join(sorted(unknown))}")
    results = {"machine": machine()}
    for name in options.names or SCENARIOS:
        with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
            results[name] = asyncio.run(run(name, Path(folder), quick=options.quick))
        print(json.dumps({name: results[name]}, indent=2), flush=True)
    if options.json:
        options.json.write_text(json.dumps(results, indent=2))


async def run(name: str, folder: Path, *, quick: bool) -> dict[str, object]:
    """One scenario in a data folder of its own."""
    settings = Settings(data_dir=folder, ollama_probe_s=0, offline_tokens_per_s=0)
    prepare_libraries(settings, os.environ)
    scenario = __import__(f"benchmarks.{name}", fromlist=["measure"])
    result: dict[str, object] = await scenario.measure(settings, quick=quick)
    return result


def machine() -> dict[str, object]:
    libraries = {name: version(name) for name in ("dspy", "gradio", "mlflow", "litellm")}
    return {
        "python": sys.version.split()[0],
        "system": platform.platform(),
        "cores": os.cpu_count(),
        **libraries,
    }


if __name__ == "__main__":
    main()
