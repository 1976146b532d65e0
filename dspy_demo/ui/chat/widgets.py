"""The components of the conversation, where they stand, and the notice above the composer."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

import gradio as gr
from gradio.components import Component

from dspy_demo.programs.spec import ProgramSpec
from dspy_demo.ui.chat.forms import Forms
from dspy_demo.ui.chat.text import as_label, as_markdown, in_words
from dspy_demo.ui.components import Update, action_html

#: What can be clicked in a notice: what it does, see `ui.components`, and its label.
Action = tuple[str, str]

USE_LOCAL: Action = ('data-do="use-local"', "Use Local")
RESTART_SERVER: Action = ('data-do="restart"', "Restart server")
SERVE_A_VERSION: Action = ('data-open="versions"', "Serve a version")
RELOAD: Action = ('data-do="reload"', "Reload")  # by the page itself, see page.js
PUT_BACK: Action = ('data-do="put-back"', "Undo")

COMMENT_MAX_CHARS = 2000
#: Single dollars are mostly money.
MATH = [
    {"left": "$$", "right": "$$", "display": True},
    {"left": "\\[", "right": "\\]", "display": True},
    {"left": "\\(", "right": "\\)", "display": False},
]
BARE: dict[str, Any] = {"show_label": False, "container": False}
#: What every chatbot of the page has.
CHATBOT: dict[str, Any] = {
    **BARE,
    "layout": "bubble",
    "buttons": ["copy"],
    "sanitize_html": True,
    "allow_tags": False,
    "latex_delimiters": MATH,
}
#: A notice stays until something is edited that a question is made of.
_GONE_WITH_AN_EDIT = """
addEventListener("input", (event) => {
  if (event.target.closest?.("#composer, #sidebar, .program-form")) props.value = "";
});
"""


def composer(elem_id: str, label: str, placeholder: str) -> gr.Textbox:
    """Where a question is written and sent, or stopped."""
    return gr.Textbox(
        elem_id=elem_id,
        elem_classes="composer",
        label=label,
        **BARE,
        placeholder=placeholder,
        max_lines=8,
        submit_btn="Send",
        html_attributes=gr.InputHTMLAttributes(autocomplete="off", enterkeyhint="send"),
    )


class ChatWidgets:
    """What the chat reads and changes; `saved` is what `Sessions.saved` tells."""

    def __init__(self, specs: Sequence[ProgramSpec], shown: ProgramSpec) -> None:
        follow = "watch('value', () => chatPage.follow(props.value, trigger));"
        self.saved = gr.HTML(html_template="", js_on_load=follow, visible="hidden", elem_id="saved-chat")
        self.earlier = gr.Button("Show earlier messages", visible=False, size="sm", elem_id="earlier")
        self.chatbot = gr.Chatbot(
            elem_id="chat",
            label="Conversation",
            height="100%",
            editable="user",
            feedback_options=["Like", "Dislike"],
            **CHATBOT | _empty(shown),
        )
        with gr.Column(elem_id="dock"):
            self.forms = Forms(specs, shown)
            self.rating = gr.Textbox(
                elem_id="rating",
                label="Comment on the answer",
                visible=False,
                max_lines=4,
                max_length=COMMENT_MAX_CHARS,
                submit_btn="Add comment",
                **BARE,
            )
            self.notice = action_html(elem_id="notice", script=_GONE_WITH_AN_EDIT)
            self.composer = composer("composer", "Your question", _asks_for(shown))
        rest = {self.earlier, self.saved, self.notice, self.rating}
        self.shown: set[Component] = {self.chatbot, self.composer, *rest}

    def answering(self, spec: ProgramSpec) -> Update:
        asks = gr.update(placeholder=_asks_for(spec))
        return {self.chatbot: gr.update(**_empty(spec)), self.composer: asks, **self.forms.show(spec)}


def notice_html(text: str, *actions: Action, wrong: bool = False) -> str:
    """The line at the composer that says why nothing happened (`wrong`: read out at once), or what did."""
    if not text:
        return ""
    buttons = "".join(f'<button type="button" class="b" {do}>{label}</button>' for do, label in actions)
    role = 'class="wrong" role="alert"' if wrong else 'role="status"'
    return f"<p><span {role}>{html.escape(text)}</span> {buttons}</p>"


def _empty(spec: ProgramSpec) -> dict[str, Any]:
    """What the chatbot shows before the first question: who answers, its fields, its examples."""
    inputs = [field.name for field in spec.inputs] + [spec.history_field] * bool(spec.history_field)
    fields = f"`{', '.join(map(str, inputs))} → {', '.join(spec.outputs)}`" if spec.outputs else ""
    return {
        "placeholder": f"## Chat with **{as_label(spec.title)}**\n\n{as_markdown(fields)}",
        "examples": [{"text": text} for text in spec.examples[:4]],
    }


def _asks_for(spec: ProgramSpec) -> str:
    if spec.chat_field in {"question", "text", "message", "messages"}:
        return "Ask a question"
    return in_words(spec.chat_field)
