"""Whether model files can be run here: the runtime is an extra, which not everybody has installed."""

from __future__ import annotations

import importlib.util

MODULE = "xllamacpp"
INSTALL_LINE = "pip install -r requirements-local.txt"
INSTALL_HINT = f"The runtime for models on this machine is not installed. Run: {INSTALL_LINE}"


def runtime_installed() -> bool:
    """Whether the runtime can be imported; it may be installed while the app runs."""
    importlib.invalidate_caches()
    return importlib.util.find_spec(MODULE) is not None
