"""The fields for a model that is not in the picker. Only the owner's page has them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component
from pydantic import SecretStr

from dspy_demo.errors import InvalidInput
from dspy_demo.events import LMChoice


@dataclass(frozen=True, slots=True)
class TypedModel:
    """The widgets, shown while “Other…” is picked."""

    group: gr.Column
    model: gr.Textbox
    api_base: gr.Textbox
    api_key: gr.Textbox

    @property
    def inputs(self) -> set[Component]:
        return {self.model, self.api_base, self.api_key}

    def choice(self, given: Mapping[Component, Any], settings: Mapping[str, Any]) -> LMChoice:
        """The model as it was typed. A typed key is in the choice and nowhere else.

        Raises:
            InvalidInput: No model is named.
        """
        model = (given[self.model] or "").strip()
        if not model:
            raise InvalidInput("Name a model first, for example openai/gpt-4o-mini.")
        key = (given[self.api_key] or "").strip()
        api_base = (given[self.api_base] or "").strip() or None
        return LMChoice(model, api_base, SecretStr(key) if key else None, **settings)


def draw_typed_model() -> TypedModel:
    with gr.Column(visible=False, elem_classes="fields") as group:
        model = gr.Textbox(label="Model string", placeholder="openai/gpt-4o-mini", max_lines=1)
        api_base = gr.Textbox(
            label="Base URL (optional)", placeholder="http://localhost:8000/v1", max_lines=1
        )
        api_key = gr.Textbox(
            label="API key (optional)",
            info="Stays in this tab and in memory.",
            type="password",
            html_attributes=gr.InputHTMLAttributes(autocomplete="off", spellcheck=False),
        )
    return TypedModel(group, model, api_base, api_key)
