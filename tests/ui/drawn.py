"""The page over stand-ins for the services that its handlers must not touch."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import gradio as gr

from dspy_demo.guests.allowance import Allowance
from dspy_demo.serving.processes import ServerState
from dspy_demo.ui.components import Services
from dspy_demo.ui.page import PageOf
from tests.services import House


class Forbidding:
    """Stands for a service that must not be touched."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} was asked for")


class Servers(Forbidding):
    """No model server, or one in any state."""

    def __init__(self, state: ServerState | None = None) -> None:
        self.now = state or ServerState()

    def state(self) -> ServerState:
        return self.now


def services_of(home: House, **services: Any) -> Services:
    """What a page works with, with stand-ins for all that `home` and `services` do not have."""
    stand_ins: dict[str, Any] = {
        "versions": Forbidding(),
        "local": Forbidding(),
        "servers": Servers(),
        "served": Forbidding(),
        "mlflow": SimpleNamespace(url=""),
        "tunnel": Forbidding(),
        "downloads": Forbidding(),
    }
    known: dict[str, Any] = {"settings": home.settings, "chat": home.service, "catalog": home.catalog}
    return Services(**cast(Any, known | stand_ins | services))


def drawn_page(home: House, guests: Allowance | None = None, **services: Any) -> PageOf:
    """The sections of a page, in a `gr.Blocks` of their own."""
    with gr.Blocks(analytics_enabled=False):
        page = PageOf(services_of(home, **services), guests)
        page.draw()
    return page
