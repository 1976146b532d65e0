"""What the page works with beside the chat: versions, model servers, MLflow's own pages."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from dspy_demo.backends.served import ServedBackend
from dspy_demo.errors import DemoError, Forbidden
from dspy_demo.serving.mlflow_ui import MLflowPages
from dspy_demo.serving.model_server import ModelServers
from dspy_demo.settings import Settings
from dspy_demo.versions.store import VersionStore

log = logging.getLogger(__name__)

SHARED = "This app is shared by a public link, where anybody could do this. Start it without --share first."


@dataclass(frozen=True, slots=True)
class Workbench:
    """The services, as `app.py` made them."""

    store: VersionStore
    servers: ModelServers
    served: ServedBackend
    pages: MLflowPages


def as_demo_error(error: Exception) -> DemoError:
    """An error as the page may tell it: one of ours as it is, a bug as a number to find in the log."""
    if isinstance(error, DemoError):
        return error
    failure = DemoError()
    log.error("the page failed", extra={"error_id": failure.error_id}, exc_info=error)
    return failure


def owner_only(settings: Settings) -> None:
    """Refuse what only the owner may do. Checked in every handler: hiding a button protects nothing.

    Raises:
        Forbidden: The app has a public link, and who comes through it looks like a local visitor.
    """
    if settings.share:
        raise Forbidden(SHARED)
