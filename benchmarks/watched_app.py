"""``python -m benchmarks.watched_app FILE [FLAG ...]``: the app, which writes its inner figures on SIGUSR1.

A leaked task or a growing container cannot be seen from outside the process.
"""

from __future__ import annotations

import asyncio
import gc
import json
import signal
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import app


def figures() -> dict[str, Any]:
    """Running tasks by name, and how many objects there are."""
    gc.collect()
    running = [task for task in list(asyncio.tasks._all_tasks) if not task.done()]  # type: ignore[attr-defined]
    names = Counter(getattr(task.get_coro(), "__qualname__", "generator") for task in running)
    kinds = Counter(type(thing).__name__ for thing in gc.get_objects())
    return {
        "tasks": dict(names),
        "threads": threading.active_count(),
        "objects": sum(kinds.values()),
        "kinds": dict(kinds.most_common(40)),
    }


def main() -> int:
    file = Path(sys.argv[1])

    def write(*_: object) -> None:
        side = file.with_suffix(".part")
        side.write_text(json.dumps(figures()))
        side.rename(file)

    signal.signal(signal.SIGUSR1, write)
    return app.main(sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
