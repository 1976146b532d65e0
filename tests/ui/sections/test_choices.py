"""What the values of the page's widgets mean."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import gradio as gr
import pytest

from dspy_demo.backends.served_wire import ServerInfo
from dspy_demo.errors import InvalidInput, NotFound
from dspy_demo.events import LMChoice, ServedTarget
from dspy_demo.lm.choices import Detection, LMOption
from dspy_demo.programs.registry import ProgramRegistry
from dspy_demo.programs.shipped import SHIPPED
from dspy_demo.serving.processes import ServerState
from dspy_demo.ui.page import PageOf
from dspy_demo.ui.sections.backend import Connected, served_choice
from dspy_demo.ui.sections.model import OTHER
from dspy_demo.ui.sections.picks import program_behind
from dspy_demo.ui.sections.versions import parse_tags
from tests.services import house, settings_for
from tests.ui.drawn import Servers, services_of

FOUND = LMChoice("openai/gpt-4o-mini", api_base="http://found:1/v1", temperature=0.3)
OPTIONS = (
    LMOption("openai/gpt-4o-mini", "gpt-4o-mini", api_base="http://found:1/v1"),
    LMOption("ollama_chat/x", "x"),
)
URI = "models:/demo/3"


@pytest.fixture
async def page(data_dir: Path) -> AsyncIterator[PageOf]:
    async with house(settings_for(data_dir)) as home:
        catalog = SimpleNamespace(detection=Detection(FOUND, "why", OPTIONS))
        with gr.Blocks(analytics_enabled=False):
            page = PageOf(services_of(home, catalog=catalog), None)
            page.draw()
        yield page


def given(page: PageOf, **changes: Any) -> dict[Any, Any]:
    """The values of the widgets when nothing was touched but `changes` in the model's section."""
    values: dict[Any, Any] = {widget: cast(Any, widget).value for widget in page.picks.inputs}
    return values | {getattr(page.model, name): value for name, value in changes.items()}


async def test_the_model_is_what_the_widgets_say(page: PageOf) -> None:
    def choice(**changes: Any) -> LMChoice:
        return page.model.choice(given(page, **changes))

    assert choice() == FOUND
    changed = choice(picker="ollama_chat/x", temperature="", max_tokens="200", cache=False)
    assert changed == LMChoice("ollama_chat/x", max_tokens=200, cache=False), "no base URL of the first one"
    typed = choice(picker=OTHER, typed_model=" groq/y ", api_base="", api_key="sk-planted")
    assert (typed.model, typed.api_base) == ("groq/y", None)
    assert typed.api_key is not None and "sk-planted" not in repr(typed)
    for wrong in (
        {"picker": OTHER, "typed_model": " "},
        *({"temperature": text} for text in ("warm", "2.1", "nan")),
        *({"max_tokens": text} for text in ("0", "1.5")),
    ):
        with pytest.raises(InvalidInput):
            choice(**wrong)
    with pytest.raises(NotFound):
        await page.picks.changed(given(page) | {page.program.picker: None})
    drawn = await page.picks.changed(given(page, picker=OTHER, typed_model="<script>"))
    assert "<script>" not in drawn[page.picks.active] and "&lt;script&gt;" in drawn[page.picks.active]


def test_tags_are_read_as_they_are_typed() -> None:
    assert parse_tags(" team = search ,tier=2,\nempty=\n") == {"team": "search", "tier": "2", "empty": ""}
    assert parse_tags("note=first, second, tier=2") == {"note": "first, second", "tier": "2"}
    for wrong in ("team", "=search"):
        with pytest.raises(InvalidInput):
            parse_tags(wrong)


def test_the_server_and_the_program_that_answer() -> None:
    def served(state: ServerState, connected: Connected | None = None) -> tuple[ServedTarget, str]:
        return served_choice(cast(Any, Servers(state)), connected)

    ready = ServerState("ready", URI, "http://127.0.0.1:5001", program="predict")
    assert served(ready) == (ServedTarget("http://127.0.0.1:5001", URI), "predict")
    there = Connected("http://there:1", ServerInfo("live", "models:/other/1", program="react"))
    assert served(ready, there) == (ServedTarget("http://there:1", "models:/other/1"), "react")
    phases: tuple[Any, ...] = ("none", "starting", "failed", "stopped", "hung")
    for phase in phases:
        with pytest.raises(NotFound, match=r"Serve|restart"):
            served(ServerState(phase, URI, reason="It ended."))
    programs = ProgramRegistry(SHIPPED)
    assert program_behind("predict", programs) is programs.get("predict")
    unknown = program_behind("somebodys", programs)
    assert (unknown.chat_field, unknown.form_fields) == ("text", ())
