"""What the sidebar's and the forms' values mean."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import gradio as gr
import pytest

from dspy_demo.errors import InvalidInput
from dspy_demo.events import LMChoice
from dspy_demo.lm.choices import Detection, LMOption
from dspy_demo.programs.spec import InputField, ProgramSpec
from dspy_demo.ui.sidebar import OTHER, Sidebar, draw_sidebar

FOUND = LMChoice("openai/gpt-4o-mini", api_base="http://found:1/v1", temperature=0.3)
OPTIONS = (
    LMOption("openai/gpt-4o-mini", "gpt-4o-mini", api_base="http://found:1/v1"),
    LMOption("ollama_chat/x", "x"),
)
SPEC = ProgramSpec(
    "titles",
    "Titles",
    "Writes titles.",
    lambda: None,  # type: ignore[arg-type, return-value]
    (
        InputField("topic"),
        InputField("words", "integer", "Words", default=8),
        InputField("share", "number", required=False),
        InputField("seo", "boolean", required=False),
        InputField("tone", "choice", choices=("calm", "bold")),
        InputField("extra", "json", required=False),
    ),
    "topic",
)


# Asynchronous, since Gradio makes an event loop where it finds none, and never closes it (6.31).
@pytest.fixture
async def sidebar() -> AsyncIterator[Sidebar]:
    with gr.Blocks(analytics_enabled=False):
        yield draw_sidebar(Detection(FOUND, "why", OPTIONS), [SPEC], SPEC, owner=True)


def values(sidebar: Sidebar, **changes: Any) -> dict[Any, Any]:
    """What the sidebar holds when nothing was touched but `changes`."""
    given: dict[Any, Any] = {widget: widget.value for widget in sidebar.inputs}
    typed = {"typed_model": "model", "api_base": "api_base", "api_key": "api_key"}
    return given | {
        getattr(sidebar.typed, typed[name]) if name in typed else getattr(sidebar, name): value
        for name, value in changes.items()
    }


async def test_untouched_it_is_the_model_that_was_found(sidebar: Sidebar) -> None:
    assert sidebar.choice(values(sidebar)) == FOUND


async def test_another_row_has_no_base_url_of_the_first(sidebar: Sidebar) -> None:
    given = values(sidebar, model="ollama_chat/x", temperature="", max_tokens="200", cache=False)
    assert sidebar.choice(given) == LMChoice("ollama_chat/x", max_tokens=200, cache=False)


async def test_two_servers_of_one_model_are_told_apart_without_their_addresses() -> None:
    here, there = "http://here:1/v1", "http://there:1/v1"
    options = tuple(LMOption("openai/m", "m", api_base=base) for base in (here, there))
    with gr.Blocks(analytics_enabled=False):
        drawn = draw_sidebar(Detection(LMChoice("openai/m", there), "", options), [SPEC], SPEC)
    assert drawn.model.value == "openai/m#2"
    assert [value for _, value in drawn.model.choices] == ["openai/m", "openai/m#2"]
    assert drawn.choice(values(drawn, model="openai/m")).api_base == here
    assert drawn.choice(values(drawn)).api_base == there


async def test_a_typed_model_and_its_key(sidebar: Sidebar) -> None:
    given = values(sidebar, model=OTHER, typed_model=" groq/y ", api_base="", api_key="sk-planted")
    choice = sidebar.choice(given)
    assert (choice.model, choice.api_base) == ("groq/y", None)
    assert choice.api_key is not None
    assert "sk-planted" not in repr(choice)


@pytest.mark.parametrize(
    "changes",
    [
        {"model": OTHER, "typed_model": " "},
        {"temperature": "warm"},
        {"temperature": "2.1"},
        {"temperature": "nan"},
        {"max_tokens": "0"},
        {"max_tokens": "1.5"},
    ],
)
async def test_what_cannot_be_used_is_said(sidebar: Sidebar, changes: dict[str, str]) -> None:
    with pytest.raises(InvalidInput):
        sidebar.choice(values(sidebar, **changes))


async def test_the_line_of_what_is_active_escapes_typed_text(sidebar: Sidebar) -> None:
    assert "<script>" not in sidebar.active_html(OTHER, "<script>", "titles", "Local")
    assert "no model yet" in sidebar.active_html(OTHER, "", "titles", "Local")
