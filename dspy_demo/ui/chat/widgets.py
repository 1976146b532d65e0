"""The components of the conversation, and where they stand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr
from gradio.components import Component

from dspy_demo.programs.spec import ProgramSpec
from dspy_demo.ui.chat.forms import Forms
from dspy_demo.ui.chat.notices import Update
from dspy_demo.ui.chat.rating import RatingBox
from dspy_demo.ui.components import action_html

WELCOME = "## What would you like to know?\n\nThe reasoning shows live, then the answer."
#: `$$` and the two TeX forms that models write; single dollars are mostly money.
MATH: list[dict[str, str | bool]] = [
    {"left": "$$", "right": "$$", "display": True},
    {"left": "\\[", "right": "\\]", "display": True},
    {"left": "\\(", "right": "\\)", "display": False},
]
#: A notice stays until something is edited that a question is made of.
_GONE_WITH_AN_EDIT = """
addEventListener("input", (event) => {
  if (event.target.closest?.("#composer, #sidebar, .program-form")) props.value = "";
});
"""
#: The page stores each new value; see page.js.
_KEPT = "const keep = () => chatPage.keepChat(props.value); watch('value', keep); keep();"


class ChatWidgets:
    """Everything that a handler of the chat may read or change. Drawn when it is made.

    Attributes:
        saved: What the browser keeps of the chat, as text; unseen.
    """

    def __init__(self, specs: Sequence[ProgramSpec], shown: ProgramSpec) -> None:
        self.saved = gr.HTML(html_template="", js_on_load=_KEPT, visible="hidden", elem_id="saved-chat")
        self.earlier = gr.Button("Show earlier messages", visible=False, size="sm", elem_id="earlier")
        self.chatbot = gr.Chatbot(
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
            examples=_examples(shown),
            feedback_options=["Like", "Dislike"],
        )
        with gr.Column(elem_id="dock"):
            self.forms = Forms(specs, shown)
            self.rating = RatingBox()
            self.notice = action_html(elem_id="notice", script=_GONE_WITH_AN_EDIT)
            self.composer = gr.Textbox(
                elem_id="composer",
                elem_classes="composer",
                label="Your question",
                show_label=False,
                container=False,
                placeholder=_placeholder(shown),
                lines=1,
                max_lines=8,
                submit_btn="Send",
                html_attributes=gr.InputHTMLAttributes(autocomplete="off", enterkeyhint="send"),
            )

    @property
    def shown(self) -> set[Component]:
        """What an event of the chat may change."""
        rating = self.rating.row
        return {self.chatbot, self.composer, self.earlier, self.saved, self.notice, rating}

    def answering(self, spec: ProgramSpec) -> Update:
        """The page for another program: its examples, its form, what the composer asks for."""
        return {
            self.chatbot: gr.update(examples=_examples(spec)),
            self.composer: gr.update(placeholder=_placeholder(spec)),
            **self.forms.show(spec),
        }

    @staticmethod
    def composing(*, running: bool, text: str | None = None) -> Any:
        """The composer while a turn runs or not, with `text` in it where that is given."""
        update = gr.update(submit_btn=False if running else "Send", stop_btn="Stop" if running else False)
        return update if text is None else {**update, "value": text}


def _examples(program: ProgramSpec) -> list[dict[str, Any]]:
    return [{"text": text} for text in program.examples[:4]]


def _placeholder(program: ProgramSpec) -> str:
    field = next(field for field in program.inputs if field.name == program.chat_field)
    if program.chat_field in {"question", "text", "message", "messages"}:
        return "Ask a question"
    return field.label or field.description or program.chat_field.replace("_", " ").capitalize()
