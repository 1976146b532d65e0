"""What a program's other inputs mean."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal, cast

import gradio as gr
import pytest

from dspy_demo.errors import InvalidInput
from dspy_demo.programs.spec import InputField, ProgramSpec
from dspy_demo.ui.chat.widgets import Forms

FIELDS = (
    InputField("topic"),
    InputField("words", "integer", default=8, annotation=int),
    InputField("share", "number", required=False, annotation=float),
    InputField("seo", "boolean", required=False, annotation=bool),
    InputField("tone", "choice", choices=("calm", "bold"), annotation=Literal["calm", "bold"]),
    InputField("extra", "json", required=False, default=[], annotation=dict[str, list[int]]),
)
SPEC = ProgramSpec("titles", "Titles", "Writes titles.", cast(Any, None), FIELDS, "topic")
LATER = replace(SPEC, inputs=(*FIELDS, InputField("note", required=False)))


async def test_a_form_gives_what_was_typed_and_a_program_that_came_later_takes_json() -> None:
    with gr.Blocks(analytics_enabled=False):
        forms = Forms([SPEC], SPEC)
    boxes = {str(widget.label).split(" (")[0].lower(): widget for widget in forms.inputs}

    def typed(**texts: Any) -> dict[Any, Any]:
        return {boxes[name]: text for name, text in texts.items()}

    values = {"words": " 12 ", "share": "0.5", "seo": True, "tone": "bold", "extra": '{"a": [1]}'}
    assert forms.values(SPEC, typed(**values)) == values
    given = {"words": "8", "seo": False, "tone": "calm"}
    assert forms.values(SPEC, typed(share="", extra=" ", **given)) == given
    for wrong in ({"words": ""}, {"words": "eight"}, {"words": "8", "extra": "{"}):
        with pytest.raises(InvalidInput, match=r"(?i:words)|extra"):
            forms.values(SPEC, typed(tone="calm", **wrong))

    box = boxes["other inputs"]
    assert [update for update in forms.show(LATER).values() if update.get("visible")] != []
    assert forms.values(LATER, {box: '{"words": 3, "tone": "calm"}'}) == {"words": 3, "tone": "calm"}
    for text, said in (("", "Words"), ("{", "as JSON"), ("[1]", "as JSON")):
        with pytest.raises(InvalidInput, match=said):
            forms.values(LATER, {box: text})
