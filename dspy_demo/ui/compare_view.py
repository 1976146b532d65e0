"""The Compare tab: two columns that answer one question."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr
from gradio.components import Component

LOCAL_SIDE, SERVED_SIDE = "local", "served"
NOTHING_YET = '<p class="quiet">The difference of the two answers will be here.</p>'


@dataclass(frozen=True, slots=True)
class Side:
    """One column: what answers, and its answer."""

    target: gr.Dropdown
    chat: gr.Chatbot


@dataclass(frozen=True, slots=True)
class CompareView:
    """The widgets of the tab."""

    tab: gr.Tab
    left: Side
    right: Side
    difference: gr.HTML
    composer: gr.Textbox
    notice: gr.HTML

    @property
    def sides(self) -> tuple[Side, Side]:
        return self.left, self.right

    @property
    def chats(self) -> set[Component]:
        return {side.chat for side in self.sides}


def draw_compare(tab: gr.Tab, latex: list[dict[str, str | bool]]) -> CompareView:
    with gr.Column(elem_id="compare"):
        with gr.Row(elem_id="sides", equal_height=False):
            left = _side("Left", LOCAL_SIDE, latex)
            right = _side("Right", SERVED_SIDE, latex)
        difference = gr.HTML(NOTHING_YET, elem_id="difference", elem_classes="own")
        with gr.Column(elem_id="compare-dock"):
            composer = gr.Textbox(
                elem_id="compare-composer",
                elem_classes="composer",
                label="Question to both",
                show_label=False,
                container=False,
                placeholder="Ask both",
                lines=1,
                max_lines=8,
                submit_btn="Send",
                html_attributes=gr.InputHTMLAttributes(autocomplete="off", enterkeyhint="send"),
            )
            notice = gr.HTML(elem_id="compare-notice", elem_classes="notice")
    return CompareView(tab, left, right, difference, composer, notice)


def _side(name: str, value: str, latex: list[dict[str, str | bool]]) -> Side:
    with gr.Column(min_width=280, elem_classes="side"):
        target = gr.Dropdown(
            [("Local", LOCAL_SIDE), ("Served", SERVED_SIDE)],
            value=value,
            label=f"{name} answers with",
            show_label=False,
            container=False,
            filterable=False,
            elem_id=f"compare-{name.lower()}",
        )
        chat = gr.Chatbot(
            elem_classes="side-chat",
            elem_id=f"chat-{name.lower()}",
            label=f"{name} answer",
            show_label=False,
            container=False,
            layout="bubble",
            height=None,
            buttons=["copy"],
            sanitize_html=True,
            allow_tags=False,
            latex_delimiters=latex,
            placeholder=" ",
            feedback_options=None,
        )
    return Side(target, chat)
