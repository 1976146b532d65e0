"""What a program's other inputs mean."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any, cast

import gradio as gr
import pytest

from dspy_demo.errors import InvalidInput
from dspy_demo.programs.spec import InputField, ProgramSpec
from dspy_demo.ui.chat.forms import Forms

SPEC = ProgramSpec(
    "titles",
    "Titles",
    "Writes titles.",
    cast(Any, None),
    (
        InputField("topic"),
        InputField("words", "integer", default=8),
        InputField("share", "number", required=False),
        InputField("seo", "boolean", required=False),
        InputField("tone", "choice", choices=("calm", "bold")),
        InputField("extra", "json", required=False, default=[]),
    ),
    "topic",
)
LATER = replace(SPEC, inputs=(*SPEC.inputs, InputField("note", required=False)))


# Asynchronous, since Gradio makes an event loop where it finds none, and never closes it.
@pytest.fixture
async def forms() -> AsyncIterator[Forms]:
    with gr.Blocks(analytics_enabled=False):
        yield Forms([SPEC], SPEC)


def typed(forms: Forms, **texts: Any) -> dict[Any, Any]:
    names = {str(widget.label).split(" (")[0].lower(): widget for widget in forms.inputs}
    return {names[name.replace("_", " ")]: text for name, text in texts.items()}


async def test_a_form_gives_typed_values_without_what_was_left_empty(forms: Forms) -> None:
    given = typed(forms, words=" 12 ", share="0.5", seo=True, tone="bold", extra='{"a": [1]}')
    values = {"words": 12, "share": 0.5, "seo": True, "tone": "bold", "extra": {"a": [1]}}
    assert forms.values(SPEC, given) == values
    given = typed(forms, words="8", share="", seo=False, tone="calm", extra=" ")
    assert forms.values(SPEC, given) == {"words": 8, "seo": False, "tone": "calm"}
    for wrong in ({"words": ""}, {"words": "eight"}, {"words": "8", "extra": "{"}):
        with pytest.raises(InvalidInput, match=r"Words|Extra"):
            forms.values(SPEC, typed(forms, tone="calm", **wrong))


async def test_a_program_that_came_later_takes_json(forms: Forms) -> None:
    (box,) = typed(forms, other_inputs="")
    assert [update for update in forms.show(LATER).values() if update.get("visible")] != []
    assert forms.values(LATER, {box: '{"words": 3, "tone": "calm"}'}) == {"words": 3, "tone": "calm"}
    for text, said in (("", "Words"), ("{", "as JSON"), ("[1]", "as JSON")):
        with pytest.raises(InvalidInput, match=said):
            forms.values(LATER, {box: text})
