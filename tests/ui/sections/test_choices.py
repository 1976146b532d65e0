"""What the values of the page's widgets mean: the model, the program and the server that answer."""

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
from dspy_demo.share.tunnel import ShareState
from dspy_demo.ui.page import PageOf
from dspy_demo.ui.sections.backend import Connected, served_choice
from dspy_demo.ui.sections.model import OTHER, ModelSection
from dspy_demo.ui.sections.program import program_behind
from dspy_demo.ui.sections.share import ShareSection
from dspy_demo.ui.sections.versions import parse_tags
from tests.services import house, settings_for
from tests.ui.drawn import Servers, drawn_page
from tests.visitors import OWNER, request_of

FOUND = LMChoice("openai/gpt-4o-mini", api_base="http://found:1/v1", temperature=0.3)
OPTIONS = (
    LMOption("openai/gpt-4o-mini", "gpt-4o-mini", api_base="http://found:1/v1"),
    LMOption("openai/gpt-4o-mini", "gpt-4o-mini", api_base="http://other:1/v1"),
    LMOption("ollama_chat/x", "x"),
)
URI = "models:/demo/3"


@pytest.fixture
async def page(data_dir: Path) -> AsyncIterator[PageOf]:
    async with house(settings_for(data_dir)) as home:
        catalog = SimpleNamespace(detection=Detection(FOUND, "why", OPTIONS))
        yield drawn_page(home, catalog=catalog)


def choice(model: ModelSection, **changes: Any) -> LMChoice:
    """The model when nothing was touched but `changes`."""
    given: dict[Any, Any] = {widget: cast(Any, widget).value for widget in model.inputs}
    return model.choice(given | {getattr(model, name): value for name, value in changes.items()})


async def test_the_model_is_what_the_widgets_say(page: PageOf) -> None:
    model = page.model
    assert choice(model) == FOUND
    changed = choice(model, picker="ollama_chat/x", temperature="", max_tokens="200", cache=False)
    assert changed == LMChoice("ollama_chat/x", max_tokens=200, cache=False), "no base URL of the first one"
    second = choice(model, picker="openai/gpt-4o-mini#2")
    assert second.api_base == "http://other:1/v1", "two servers of one model, without their addresses"
    typed = choice(model, picker=OTHER, typed_model=" groq/y ", api_base="", api_key="sk-planted")
    assert (typed.model, typed.api_base) == ("groq/y", None)
    assert typed.api_key is not None and "sk-planted" not in repr(typed)
    for wrong in (
        {"picker": OTHER, "typed_model": " "},
        *({"temperature": text} for text in ("warm", "2.1", "nan")),
        *({"max_tokens": text} for text in ("0", "1.5")),
    ):
        with pytest.raises(InvalidInput):
            choice(model, **wrong)


async def test_the_header_escapes_what_was_typed(page: PageOf) -> None:
    given: dict[Any, Any] = {w: cast(Any, w).value for w in page.picks.inputs}
    given |= {page.model.picker: OTHER, page.model.typed_model: "<script>"}
    html = (await page.header.changed(given))[page.header.active]
    assert "<script>" not in html and "&lt;script&gt;" in html and "Chain of thought" in html


@pytest.mark.parametrize(
    ("text", "tags"),
    [
        ("", {}),
        (" team = search ,tier=2,", {"team": "search", "tier": "2"}),
        ("team=search\ntier=2\n", {"team": "search", "tier": "2"}),
        ("note=first, second, tier=2", {"note": "first, second", "tier": "2"}),
        ("url=http://x/?a=b", {"url": "http://x/?a=b"}),
        ("empty=", {"empty": ""}),
        *((wrong, None) for wrong in ("team", "=search", "team=a, team=b")),
    ],
)
def test_tags_are_read_as_they_are_typed(text: str, tags: dict[str, str] | None) -> None:
    if tags is None:
        with pytest.raises(InvalidInput):
            parse_tags(text)
    else:
        assert parse_tags(text) == tags


def served(state: ServerState, connected: Connected | None = None) -> tuple[ServedTarget, str]:
    return served_choice(cast(Any, Servers(state)), connected)


def test_the_server_that_answers() -> None:
    ready = ServerState("ready", URI, "http://127.0.0.1:5001", program="predict")
    assert served(ready) == (ServedTarget("http://127.0.0.1:5001", URI), "predict")
    there = Connected("http://there:1", ServerInfo("live", "models:/other/1", program="react"))
    assert served(ready, there) == (ServedTarget("http://there:1", "models:/other/1"), "react")
    phases: tuple[Any, ...] = ("none", "starting", "failed", "stopped", "hung")
    for phase in phases:
        with pytest.raises(NotFound, match=r"Serve|Restart|again"):
            served(ServerState(phase, URI, reason="It ended."))


def test_the_program_behind_a_server() -> None:
    programs = ProgramRegistry(SHIPPED)
    assert program_behind("predict", programs) is programs.get("predict")
    unknown = program_behind("somebodys", programs)
    assert (unknown.chat_field, unknown.form_fields) == ("text", ())


class Tunnel:
    """Remembers what it was asked to do; the real one is tested in tests/share."""

    def __init__(self) -> None:
        self.now, self.asked = ShareState(), list[str]()

    def state(self) -> ShareState:
        return self.now

    def begin(self) -> None:
        self.asked.append("begin")
        self.now = ShareState("opening", step="Starting")

    async def close(self) -> None:
        self.asked.append("close")
        self.now = ShareState()


async def test_sharing_begins_and_ends_and_a_look_sends_what_is_new() -> None:
    tunnel, request = Tunnel(), request_of(OWNER)
    share = ShareSection(cast(Any, tunnel), clock=lambda: 1_000.0)
    with gr.Blocks(analytics_enabled=False):
        share.draw()
    assert share.panel not in await share.look(share.panel.value, request), "a fresh page needs no first look"
    for do in ("share", "stop", "anything"):
        drawn = await share.act(gr.EventData(None, {"do": do}), request)
        assert share.panel not in await share.look(drawn[share.panel], request)
    tunnel.now = ShareState("open", url="https://a.gradio.live")
    assert "a.gradio.live" in (await share.look(drawn[share.panel], request))[share.panel]
    assert tunnel.asked == ["begin", "close"]
