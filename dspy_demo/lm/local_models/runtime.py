"""Whether model files can be run here: the runtime is an extra, which not everybody has installed."""

from __future__ import annotations

import importlib.util

MODULE = "xllamacpp"
INSTALL_LINE = "pip install -r requirements-local.txt"
INSTALL_HINT = f"The runtime for models on this machine is not installed. Run: {INSTALL_LINE}"


def runtime_installed() -> bool:
    """Whether the runtime can be imported; it may be installed while the app runs.

    The import system looks at a folder again when it has changed. `importlib.invalidate_caches` is not for
    threads: two at a time delete the same entry, and one gets a KeyError (Python 3.11 to 3.13).
    """
    return importlib.util.find_spec(MODULE) is not None
