"""Stand-ins for the services that the page's handlers must not touch: what is asked for fails."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from dspy_demo.serving.processes import ServerState
from dspy_demo.ui.components import Services
from tests.services import House


class Servers:
    """No model server, or one in any state."""

    def __init__(self, state: ServerState | None = None) -> None:
        self.now = state or ServerState()

    def state(self) -> ServerState:
        return self.now


def services_of(home: House, **services: Any) -> Services:
    """What a page works with, with stand-ins for all that `home` and `services` do not have."""
    names = ("versions", "local", "served", "tunnel", "downloads")
    stand_ins: dict[str, Any] = {name: SimpleNamespace() for name in names}
    stand_ins |= {"servers": Servers(), "mlflow": SimpleNamespace(url="")}
    known: dict[str, Any] = {"settings": home.settings, "chat": home.service, "catalog": home.catalog}
    return Services(**cast(Any, known | stand_ins | services))
