"""The conversation as a part of the page: drawn, and wired to its handlers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

from dspy_demo.chat import ChatService
from dspy_demo.events import LocalTarget
from dspy_demo.programs.spec import ProgramSpec
from dspy_demo.ui.chat.endpoint import chat_endpoint
from dspy_demo.ui.chat.handlers import ChatHandlers
from dspy_demo.ui.chat.rating import RatingHandlers
from dspy_demo.ui.chat.session import Sessions
from dspy_demo.ui.chat.widgets import ChatWidgets
from dspy_demo.ui.sections.picks import SidebarPicks
from dspy_demo.web.auth import stored_key

#: What the page itself does before a click is sent: an event whose inputs hold the chat sends its ids alone.
_BY_ID = "(...given) => chatPage.byId(given)"


class Chat:
    """The chat of one page.

    Args:
        picks: What is picked beside it. It is drawn before the chat, and wired after it.
        mlflow_url: The address of MLflow's pages for whoever sees this page; empty where there is none.
    """

    def __init__(self, service: ChatService, picks: SidebarPicks, *, mlflow_url: Callable[[], str]) -> None:
        self.service = service
        self._picks = picks
        self._mlflow_url = mlflow_url
        # Of this page alone: guests can push out each other's chats by their number, and not the owner's.
        self._sessions = Sessions(stored_key(service.settings.data_dir))

    def draw(self, specs: Sequence[ProgramSpec], start: LocalTarget) -> None:
        """Make the components, inside the current `gr.Blocks`.

        Args:
            specs: The programs that the page may ask.
            start: What the page starts with, and ``/chat`` asks.
        """
        self._start = start
        self.widgets = ChatWidgets(specs, self.service.programs.get(start.program))

    def wire(self, demo: gr.Blocks, new_chat: gr.Button, now: dict[str, Any]) -> None:
        """Make the events, when all of the page is drawn.

        Args:
            new_chat: The button that starts over.
            now: Options of an event that is answered at once, beside the queue.
        """
        page, service, picks = self.widgets, self.service, self._picks
        self.handlers = ChatHandlers(
            service, self._sessions, page, picks=picks, demo=demo, mlflow_url=self._mlflow_url
        )
        self._wire_turns(demo, new_chat, now)
        changed = {page.chatbot, page.composer, *page.forms.outputs}
        gr.on(picks.changes, self.handlers.program_changed, picks.inputs, changed, **now)
        if service.settings.tracing:
            RatingHandlers(service, self._sessions, page).wire(now)
        gr.api(
            chat_endpoint(service, demo, self._start),
            api_name="chat",
            api_description="Ask the program that the app started with.",
        )

    def link_traces(self, event: Any, now: dict[str, Any]) -> None:
        """After `event` MLflow's pages may run: link the answers to their traces."""
        outputs = self.widgets.shown
        event.then(self.handlers.redraw, None, outputs, postprocess=False, **now)

    def _wire_turns(self, demo: gr.Blocks, new_chat: gr.Button, now: dict[str, Any]) -> None:
        page, chat = self.widgets, self.handlers
        # The messages are ready for the wire; see `render`.
        shown: dict[str, Any] = now | {"outputs": page.shown, "postprocess": False}
        asked = {page.composer, *self._picks.inputs, *page.forms.inputs}
        again = {page.chatbot, *asked}
        demo.load(chat.load, page.saved, js="() => chatPage.chat()", **shown)
        demo.load(None, None, page.composer, js="() => chatPage.draft()", **now)
        demo.unload(chat.stop)
        page.composer.submit(chat.send, asked, js=_BY_ID, **shown)
        page.chatbot.example_select(chat.example, asked, js=_BY_ID, **shown)
        page.chatbot.retry(chat.retry, again, js=_BY_ID, **shown)
        page.chatbot.edit(chat.edit, again, js=_BY_ID, **shown)
        # Asked for by the page itself (`follow` in page.js), never by a click. Gradio leaves an event out
        # while the same one runs, unless it is "multiple".
        multiple = {"postprocess": False, "trigger_mode": "multiple"}
        drawn = page.saved.play(chat.draw, None, page.chatbot, **now | multiple | {"queue": True})
        drawn.then(chat.settle, None, **shown | multiple)
        page.saved.retry(chat.redraw, None, **shown | multiple)
        page.composer.stop(chat.stop, **now)
        page.chatbot.undo(chat.undo, {page.chatbot, page.composer}, js=_BY_ID, **shown)
        new_chat.click(chat.new_chat, None, js="() => chatPage.newChat()", **shown)
        page.earlier.click(chat.show_earlier, None, **shown)
        page.notice.click(chat.fix, None, **shown | {"outputs": {*page.shown, *self._picks.use_local()}})
