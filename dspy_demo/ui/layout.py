"""The components of the page and where they stand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component

from dspy_demo.lm.detection import Detection
from dspy_demo.programs.spec import ProgramSpec
from dspy_demo.ui.forms import ProgramForm, program_form
from dspy_demo.ui.sidebar import Sidebar, SidebarSection, draw_sidebar

BUILTIN_BANNER = (
    "<b>The built-in engine is not a language model.</b> It answers arithmetic, dates, units, capitals and "
    "text puzzles by rules. To talk to a real model, choose <b>Other…</b> under Model."
)
WELCOME = "## What would you like to know?\n\nThe reasoning shows live, then the answer."
# The browser encrypts with it what only this browser holds; it must be the same after a restart.
BROWSER_SECRET = "dspy-demo-chat-1"  # noqa: S105
#: `$$` and the two TeX forms that models write; single dollars are mostly money.
MATH = [
    {"left": "$$", "right": "$$", "display": True},
    {"left": "\\[", "right": "\\]", "display": True},
    {"left": "\\(", "right": "\\)", "display": False},
]


@dataclass(frozen=True, slots=True)
class Page:
    """Everything that a handler may read or change."""

    sidebar: Sidebar
    forms: Mapping[str, ProgramForm]
    banner: gr.HTML
    earlier: gr.Button
    chatbot: gr.Chatbot
    composer: gr.Textbox
    notice: gr.HTML
    new_chat: gr.Button
    saved: gr.BrowserState

    @property
    def turn_inputs(self) -> set[Component]:
        """What a turn is made of."""
        fields = {widget for form in self.forms.values() for widget in form.widgets.values()}
        return {self.composer, *self.sidebar.inputs, *fields}


def draw_page(
    detection: Detection,
    programs: Sequence[ProgramSpec],
    program: ProgramSpec,
    sections: Sequence[SidebarSection],
    *,
    served: bool,
) -> Page:
    """Draw the page inside the current `gr.Blocks`."""
    saved = gr.BrowserState(None, storage_key="dspy-demo-chat", secret=BROWSER_SECRET)
    sidebar = draw_sidebar(detection, programs, program, sections, served=served)
    with gr.Column(elem_id="main"):
        with gr.Row(elem_id="topbar"):
            new_chat = gr.Button("New chat", elem_id="new-chat", size="sm", min_width=0, scale=0)
        banner = gr.HTML(BUILTIN_BANNER, visible=detection.builtin, elem_id="banner")
        earlier = gr.Button("Show earlier messages", visible=False, size="sm", elem_id="earlier")
        chatbot = gr.Chatbot(
            elem_id="chat",
            label="Conversation",
            show_label=False,
            container=False,
            height="100%",
            layout="bubble",
            editable="user",
            buttons=["copy"],
            sanitize_html=True,
            allow_tags=False,
            latex_delimiters=MATH,
            placeholder=WELCOME,
            examples=example_rows(program),
            feedback_options=None,
        )
        with gr.Column(elem_id="dock"):
            forms = {spec.name: program_form(spec, visible=spec is program) for spec in programs}
            composer = gr.Textbox(
                elem_id="composer",
                label="Your question",
                show_label=False,
                container=False,
                placeholder=placeholder(program),
                lines=1,
                max_lines=8,
                autofocus=True,
                submit_btn="Send",
                html_attributes=gr.InputHTMLAttributes(autocomplete="off", enterkeyhint="send"),
            )
            notice = gr.HTML(elem_id="notice")
    return Page(sidebar, forms, banner, earlier, chatbot, composer, notice, new_chat, saved)


def example_rows(program: ProgramSpec) -> list[dict[str, Any]]:
    """The clickable questions of the empty page."""
    return [{"text": text} for text in program.examples[:4]]


def placeholder(program: ProgramSpec) -> str:
    field = next(field for field in program.inputs if field.name == program.chat_field)
    if program.chat_field in {"question", "text", "message", "messages"}:
        return "Ask a question"
    return field.label or field.description or program.chat_field.replace("_", " ").capitalize()
