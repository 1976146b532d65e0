"""Run the scenarios: each measures this house beside the one before, and beside peers, in one run."""

import argparse
import asyncio
import importlib
import json
import os
import platform
import signal
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from benchmarks.report import Row, table

SCENARIOS = ("versions", "streams", "page", "start", "soak")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join(SCENARIOS)}; all without one"
    )
    parser.add_argument(
        "--before", type=Path, help="a checkout of the version before, measured beside this one"
    )
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    parser.add_argument("--plot", type=Path, help="also draw them into this file")
    parser.add_argument("--quick", action="store_true", help="few rounds: that it runs, not what it measures")
    options = parser.parse_args()
    if unknown := set(options.names) - set(SCENARIOS):
        parser.error(f"no scenario named {', '.join(sorted(unknown))}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers of a scenario end too
    rows: list[Row] = []
    for name in options.names or SCENARIOS:
        started = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="benchmark-", ignore_cleanup_errors=True) as folder:
            scenario = importlib.import_module(f"benchmarks.{name}")
            rows += asyncio.run(scenario.measure(options.before, Path(folder), quick=options.quick))
        taken_s, load = time.monotonic() - started, os.getloadavg()[0]
        print(f"{name}: {taken_s:.0f} s, load average {load:.1f}", file=sys.stderr, flush=True)
        if options.json:  # after each: a later one may fail
            results = {"machine": machine(), "rows": [row.as_json() for row in rows]}
            options.json.write_text(json.dumps(results, indent=1) + "\n")
    print(table(rows))
    if options.plot:
        from benchmarks.plots import draw

        draw(rows, options.plot)


def machine() -> dict[str, object]:
    libraries = {name: version(name) for name in ("dspy", "gradio", "mlflow", "litellm")}
    return {
        "date": time.strftime("%Y-%m-%d"),
        "python": sys.version.split()[0],
        "system": platform.platform(),
        "cores": os.cpu_count(),
        **libraries,
    }


if __name__ == "__main__":
    main()
