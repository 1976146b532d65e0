"""The components of the page and where they stand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component

from dspy_demo.lm.choices import Detection
from dspy_demo.programs.spec import ProgramSpec
from dspy_demo.ui.actions import action_html
from dspy_demo.ui.chat.forms import ProgramForm, SpareForm, program_form, spare_form
from dspy_demo.ui.chat.rating import RatingBox, draw_rating_box
from dspy_demo.ui.compare_view import CompareView, draw_compare
from dspy_demo.ui.sidebar import Sidebar, draw_sidebar

DEMO_BANNER = "<b>Demo engine</b>: it can calculate and tell the time."
TO_A_REAL_MODEL = " For a real model, download one or choose <b>Other…</b> under Model."
WELCOME = "## What would you like to know?\n\nThe reasoning shows live, then the answer."
#: A notice stays until something is edited that a question is made of.
GONE_WITH_AN_EDIT = """
addEventListener("input", (event) => {
  if (event.target.closest?.("#composer, #sidebar, .program-form")) props.value = "";
});
"""
# The browser encrypts with it what only this browser holds; it must be the same after a restart.
BROWSER_SECRET = "dspy-demo-chat-1"  # noqa: S105
#: `$$` and the two TeX forms that models write; single dollars are mostly money.
MATH: list[dict[str, str | bool]] = [
    {"left": "$$", "right": "$$", "display": True},
    {"left": "\\[", "right": "\\]", "display": True},
    {"left": "\\(", "right": "\\)", "display": False},
]


@dataclass(frozen=True, slots=True)
class Page:
    """Everything that a handler may read or change.

    Attributes:
        saved: The browser's copy of the chat.
        choices: The browser's copy of what was picked in the sidebar.
        owner: Whether it is the owner's page; the guests' one has no controls of the owner.
    """

    sidebar: Sidebar
    forms: Mapping[str, ProgramForm]
    spare: SpareForm
    banner: gr.HTML
    earlier: gr.Button
    chatbot: gr.Chatbot
    composer: gr.Textbox
    rating: RatingBox
    notice: gr.HTML
    new_chat: gr.Button
    saved: gr.BrowserState
    choices: gr.BrowserState
    compare: CompareView | None
    owner: bool = False

    @property
    def quiet(self) -> dict[str, Any]:
        """What each event of the page is told: only the page may call it by name, and it draws no progress.

        Gradio does not enforce the first (the route by index stays open), so handlers check for themselves.
        Of the second it still tells, at each message of a stream, every component of any event so far, and
        copies all that the browser knows of it (6.31, ``update_loading_stati_state``). So all of them tell
        one, which draws nothing.
        """
        return {"api_visibility": "private", "show_progress": "hidden", "show_progress_on": self.saved}

    @property
    def turn_inputs(self) -> set[Component]:
        """What a turn is made of."""
        fields = {widget for form in self.forms.values() for widget in form.widgets.values()}
        return {self.composer, *self.sidebar.inputs, *fields, *self.spare.widgets}

    @property
    def form_groups(self) -> set[Component]:
        """What `form_updates` changes."""
        return {*(form.group for form in self.forms.values()), self.spare.group, *self.spare.widgets}

    def form_for(self, spec: ProgramSpec) -> ProgramForm:
        """The form of a program, also of one that came after the page was drawn."""
        for form in self.forms.values():
            if form.spec.form_fields == spec.form_fields:
                return form
        return self.spare.form(spec)

    def form_updates(self, spec: ProgramSpec) -> dict[Component, Any]:
        """Show the form of `spec`, and no other."""
        wanted = self.form_for(spec)
        groups = {
            form.group: gr.update(visible=form is wanted and bool(form.widgets))
            for form in self.forms.values()
        }
        spare = self.spare.updates(spec) if wanted.group is self.spare.group else {}
        return {**groups, self.spare.group: gr.update(visible=bool(spare)), **spare}


def draw_page(
    detection: Detection,
    programs: Sequence[ProgramSpec],
    program: ProgramSpec,
    *,
    owner: bool = False,
    model_name: str = "",
) -> Page:
    """Draw the page inside the current `gr.Blocks`."""
    saved = gr.BrowserState(None, storage_key="dspy-demo-chat", secret=BROWSER_SECRET)
    choices = gr.BrowserState(None, storage_key="dspy-demo-choices", secret=BROWSER_SECRET)
    sidebar = draw_sidebar(detection, programs, program, owner=owner, model_name=model_name)
    compare = None
    with gr.Column(elem_id="main", elem_classes="" if owner else "one-view"):
        with gr.Row(elem_id="topbar"):
            new_chat = gr.Button("New chat", elem_id="new-chat", size="sm", min_width=0, scale=0)
        views = gr.Tabs(elem_id="views")
        with views, gr.Tab("Chat", id="chat"):
            hint = TO_A_REAL_MODEL if owner else ""
            banner = gr.HTML(DEMO_BANNER + hint, visible=detection.demo, elem_id="banner")
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
                feedback_options=["Like", "Dislike"],
            )
            with gr.Column(elem_id="dock"):
                forms = {spec.name: program_form(spec, visible=spec is program) for spec in programs}
                spare = spare_form()
                rating = draw_rating_box()
                notice = action_html(elem_id="notice", script=GONE_WITH_AN_EDIT)
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
        if owner:
            with views, gr.Tab("Compare", id="compare") as tab:
                compare = draw_compare(tab, MATH)
    return Page(
        sidebar,
        forms,
        spare,
        banner,
        earlier,
        chatbot,
        composer,
        rating,
        notice,
        new_chat,
        saved,
        choices,
        compare,
        owner,
    )


def example_rows(program: ProgramSpec) -> list[dict[str, Any]]:
    """The clickable questions of the empty page."""
    return [{"text": text} for text in program.examples[:4]]


def placeholder(program: ProgramSpec) -> str:
    field = next(field for field in program.inputs if field.name == program.chat_field)
    if program.chat_field in {"question", "text", "message", "messages"}:
        return "Ask a question"
    return field.label or field.description or program.chat_field.replace("_", " ").capitalize()
