"""The Versions section of the sidebar: the log form and the list."""

from __future__ import annotations

import html
from dataclasses import dataclass

import gradio as gr

from dspy_demo.ui.actions import action_html

HEAD = (
    '<div class="head"><h2>Versions</h2><span class="s-actions">'
    '<button type="button" class="b" data-do="refresh">Refresh</button>{mlflow}</span></div>'
)
OPEN_MLFLOW = '<button type="button" class="b" data-do="open">Open MLflow</button>'


@dataclass(frozen=True, slots=True)
class VersionPanel:
    """The widgets of the section."""

    head: gr.HTML
    name: gr.Textbox
    description: gr.Textbox
    tags: gr.Textbox
    log: gr.Button
    result: gr.HTML
    fold: gr.Accordion
    list: gr.HTML


def draw_version_panel(model_name: str) -> VersionPanel:
    head = action_html(HEAD.format(mlflow=OPEN_MLFLOW), elem_id="versions-head")
    with gr.Accordion("Log this program", open=False, elem_classes="options", elem_id="log-form"):
        name = gr.Textbox(model_name, label="Model name", max_lines=1)
        description = gr.Textbox(
            label="Description (optional)", lines=2, max_lines=6, placeholder="What is new in it?"
        )
        tags = gr.Textbox(label="Tags (optional)", placeholder="team=search, tier=2", lines=1, max_lines=6)
        gr.HTML('<p class="quiet">Logs the program and the model that are picked for Local.</p>')
        log = gr.Button("Log to MLflow", variant="primary", size="sm", elem_id="log")
    result = gr.HTML(elem_id="log-result", elem_classes="own")
    with gr.Accordion("All versions", open=False, elem_classes="options", elem_id="versions") as fold:
        listed = action_html('<p class="quiet">Looking…</p>', elem_id="version-list")
    return VersionPanel(head, name, description, tags, log, result, fold, listed)


def head_html(mlflow_url: str) -> str:
    """The section's heading; MLflow is a link as soon as its pages are there."""
    if not mlflow_url:
        return HEAD.format(mlflow=OPEN_MLFLOW)
    url = html.escape(mlflow_url)
    return HEAD.format(
        mlflow=f'<a class="b" href="{url}" target="_blank" rel="noopener noreferrer">MLflow</a>'
    )
