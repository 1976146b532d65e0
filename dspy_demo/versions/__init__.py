"""Versions of a program in MLflow: log, list, promote, roll back, load back. `VersionStore` does all of it.

MLflow is imported inside, on first use.
"""

from dspy_demo.versions.store import VersionStore
from dspy_demo.versions.tracking import Progress
from dspy_demo.versions.version import CHAMPION, LoadedVersion, LogRequest, Version

__all__ = ["CHAMPION", "LoadedVersion", "LogRequest", "Progress", "Version", "VersionStore"]
