"""What every peer that is an ASGI app is run by: uvicorn, one process, as our app is."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any


def run(build: Callable[[str], Any]) -> None:
    """Serve the app that `build` makes for the upstream's URL."""
    import uvicorn

    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--upstream", required=True)
    options = parser.parse_args()
    uvicorn.run(build(options.upstream), host="127.0.0.1", port=options.port, log_level="warning")
