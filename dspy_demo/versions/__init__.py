"""Versions of a program in MLflow: log, list, promote, roll back, load back. `VersionStore` does it all."""

from dspy_demo.versions.store import VersionStore
from dspy_demo.versions.version import LogRequest, Version

__all__ = ["LogRequest", "Version", "VersionStore"]
