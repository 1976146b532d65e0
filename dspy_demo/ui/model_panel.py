"""The list of models to download, in the sidebar's Model section."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr
from gradio.components import Component

from dspy_demo.ui.actions import action_html

#: Seconds between two looks while a model is on its way.
LOOK_S = 1.0


@dataclass(frozen=True, slots=True)
class ModelPanel:
    """The widgets of the list.

    Attributes:
        seen: What the list shows, so that a look that finds nothing new sends nothing.
        spoken: The states in words, unseen; its change is when the picker is out of date.
    """

    fold: gr.Accordion
    list: gr.HTML
    spoken: gr.HTML
    timer: gr.Timer
    seen: gr.State

    @property
    def outputs(self) -> set[Component]:
        return {self.list, self.spoken, self.timer, self.seen}


def draw_model_panel(*, open: bool) -> ModelPanel:
    """Draw the list, empty until the page has loaded."""
    with gr.Accordion("Download a small model", open=open, elem_classes="options", elem_id="models") as fold:
        listed = action_html('<p class="quiet">Looking…</p>', elem_id="model-list")
    spoken = gr.HTML(elem_classes="sr")
    return ModelPanel(fold, listed, spoken, gr.Timer(LOOK_S, active=False), gr.State(""))
