"""The components of the conversation, where they stand, and the notice above the composer."""

import html
import json
from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr
from gradio.components import Component

from dspy_demo.errors import InvalidInput
from dspy_demo.programs.inputs import read_value
from dspy_demo.programs.spec import InputField, ProgramSpec
from dspy_demo.ui.chat.text import as_label, as_markdown, as_typed, in_words, plain_text
from dspy_demo.ui.components import Update, action_html

#: What can be clicked in a notice: what it does, see `ui.components`, and its label.
Action = tuple[str, str]

USE_LOCAL: Action = ('data-do="use-local"', "Use Local")
RESTART_SERVER: Action = ('data-do="restart"', "Restart server")
SERVE_A_VERSION: Action = ('data-open="versions"', "Serve a version")
RELOAD: Action = ('data-do="reload"', "Reload")  # by the page itself, see page.js
PUT_BACK: Action = ('data-do="put-back"', "Undo")

COMMENT_MAX_CHARS = 2000
_PLACEHOLDERS = {"integer": "Number", "number": "Number", "json": "JSON"}
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
    named = {"elem_id": elem_id, "elem_classes": "composer", "label": label, "placeholder": placeholder}
    plain = gr.InputHTMLAttributes(autocomplete="off", enterkeyhint="send")
    return gr.Textbox(max_lines=8, submit_btn="Send", html_attributes=plain, **named, **BARE)


def composer_update(*, running: bool, **changes: Any) -> dict[str, Any]:
    """The composer's button for a turn that runs, or for the next one; `running` is a name for page.css."""
    buttons = {"submit_btn": not running and "Send", "stop_btn": running and "Stop"}
    classes = "composer running" if running else "composer"
    update: dict[str, Any] = gr.update(**buttons, elem_classes=classes, **changes)
    return update


class ChatWidgets:
    """What the chat reads and changes; `saved` is what `Sessions.saved` tells."""

    def __init__(self, specs: Sequence[ProgramSpec], shown: ProgramSpec) -> None:
        follow = "watch('value', () => chatPage.follow(props.value, trigger));"
        self.saved = gr.HTML(html_template="", js_on_load=follow, visible="hidden", elem_id="saved-chat")
        self.earlier = gr.Button("Show earlier messages", visible=False, size="sm", elem_id="earlier")
        named = {"elem_id": "chat", "elem_classes": "conversation", "label": "Conversation"}
        options = {**named, "height": "100%", **CHATBOT, **_empty(shown)}
        self.chatbot = gr.Chatbot(editable="user", feedback_options=["Like", "Dislike"], **options)
        with gr.Column(elem_id="dock"):
            self.forms = Forms(specs, shown)
            named = {"elem_id": "rating", "label": "Comment on the answer", "submit_btn": "Add comment"}
            bounds = {"max_lines": 4, "max_length": COMMENT_MAX_CHARS}
            self.rating = gr.Textbox(visible=False, **named, **bounds, **BARE)
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


class Forms:
    """A form for each program that the page knows, of which one is seen; JSON for those that came later."""

    def __init__(self, specs: Sequence[ProgramSpec], shown: ProgramSpec) -> None:
        self._forms: dict[str, dict[str, Component]] = {}
        self._rows: dict[str, gr.Row] = {}
        for spec in specs:
            key = _key(spec)
            if spec.form_fields and key not in self._forms:
                with gr.Row(visible=key == _key(shown), elem_classes="program-form") as self._rows[key]:
                    self._forms[key] = {field.name: _widget(field) for field in spec.form_fields}
        late: dict[str, Any] = {"label": "Other inputs (JSON)", "lines": 1, "max_lines": 6}
        self._late = gr.Textbox(visible=False, elem_classes="program-form", **late)
        self.inputs = {self._late, *(widget for form in self._forms.values() for widget in form.values())}
        self.outputs: set[Component] = {self._late, *self._rows.values()}

    def show(self, spec: ProgramSpec) -> dict[Component, Any]:
        late = bool(spec.form_fields) and _key(spec) not in self._forms
        example = json.dumps({field.name: field.default for field in spec.form_fields}, ensure_ascii=False)
        return {
            **{row: gr.update(visible=key == _key(spec)) for key, row in self._rows.items()},
            self._late: gr.update(visible=late, placeholder=example),
        }

    def values(self, spec: ProgramSpec, given: Mapping[Component, Any]) -> dict[str, Any]:
        """The inputs as they were typed, without those left empty; `InvalidInput` where one is wrong."""
        typed: dict[str, Any] | None
        if form := self._forms.get(_key(spec)):
            typed = {name: given.get(widget) for name, widget in form.items()}
        else:
            typed = json_object((spec.form_fields and given.get(self._late)) or "{}")
        if typed is None:
            raise InvalidInput('Write the other inputs as JSON, for example {"tone": "calm"}.')
        values = {}
        for field in spec.form_fields:
            value = typed.get(field.name)
            if value is not None and (not isinstance(value, str) or value.strip()):
                read_value(field, value)
                values[field.name] = value
            elif field.required:
                raise InvalidInput(f"Fill in “{in_words(field.name)}” first.")
        return values


def json_object(text: Any) -> dict[str, Any] | None:
    try:
        value = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _key(spec: ProgramSpec) -> str:
    """Programs with the same fields have the same form."""
    return repr(spec.form_fields)


def _widget(field: InputField) -> Component:
    shown: dict[str, Any] = {
        "label": in_words(field.name) + ("" if field.required else " (optional)"),
        "info": as_typed(field.description) or None,  # Gradio draws it as Markdown
        "min_width": 160,
    }
    match field.kind:
        case "boolean":
            return gr.Checkbox(bool(field.default), **shown)
        case "choice":
            first = field.choices[0] if field.required and field.choices else None
            value = field.default if field.default is not None else first
            return gr.Dropdown(list(field.choices), value=value, **shown)
        case "image":
            # No gr.Image: that uploads. page.js reads a file or a paste into the field, as a data URL.
            shown |= {"elem_classes": "image-input", "placeholder": "Paste a picture, or its address"}
            return gr.Textbox(max_lines=1, submit_btn="Choose a file", **shown)
    # Numbers too: an empty gr.Number is 0.
    placeholder = _PLACEHOLDERS.get(field.kind)
    return gr.Textbox(plain_text(field.default), lines=1, max_lines=6, placeholder=placeholder, **shown)
