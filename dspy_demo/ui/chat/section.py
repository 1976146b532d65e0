"""The conversation as a part of the page, wired to its handlers, and ``/chat`` for programs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import Any

import gradio as gr

from dspy_demo.chat import ChatService
from dspy_demo.events import LocalTarget, Message, TurnRequest
from dspy_demo.programs.spec import ProgramSpec
from dspy_demo.ui.chat.handlers import ChatHandlers
from dspy_demo.ui.chat.live import LiveTurn
from dspy_demo.ui.chat.session import Sessions
from dspy_demo.ui.chat.widgets import ChatWidgets
from dspy_demo.ui.components import visitor_of
from dspy_demo.ui.gradio_bridge import delivered
from dspy_demo.ui.sections.picks import SidebarPicks
from dspy_demo.web.auth import stored_key

#: Before a click is sent: an event whose inputs hold the chat sends its ids alone.
_BY_ID = "(...given) => chatPage.byId(given)"


class Chat:
    """The chat of one page; `mlflow_url` is MLflow's address for whoever sees it, empty where none."""

    def __init__(self, service: ChatService, picks: SidebarPicks, *, mlflow_url: Callable[[], str]) -> None:
        self.service = service
        self._picks = picks
        self._mlflow_url = mlflow_url
        # Of this page alone: guests can push out each other's chats by their number, and not the owner's.
        self._sessions = Sessions(stored_key(service.settings.data_dir))

    def draw(self, specs: Sequence[ProgramSpec], start: LocalTarget) -> None:
        """Make the components, inside the current `gr.Blocks`; ``/chat`` asks what the page starts with."""
        self._start = start
        self.widgets = ChatWidgets(specs, self.service.programs.get(start.program))

    def wire(self, demo: gr.Blocks, new_chat: gr.Button, now: dict[str, Any]) -> None:
        """Make the events, when all of the page is drawn; `now` as in `ui.components.Section`."""
        page, service, picks = self.widgets, self.service, self._picks
        self.handlers = ChatHandlers(
            service, self._sessions, page, picks=picks, demo=demo, mlflow_url=self._mlflow_url
        )
        self._wire_turns(demo, new_chat, now)
        changed = {page.chatbot, page.composer, *page.forms.outputs}
        gr.on(picks.changes, self.handlers.program_changed, picks.inputs, changed, **now)
        if service.settings.tracing:
            self._wire_rating(now)
        description = "Ask the program that the app started with."
        gr.api(_endpoint(service, demo, self._start), api_name="chat", api_description=description)

    def _wire_rating(self, now: dict[str, Any]) -> None:
        page, chat = self.widgets, self.handlers
        now = now | {"outputs": {page.rating, page.comment, page.rated_turn, page.notice, page.saved}}
        page.chatbot.like(chat.rate, page.chatbot, js=_BY_ID, **now)
        sent = [page.send_comment.click, page.comment.submit]
        gr.on(sent, chat.comment, [page.comment, page.rated_turn], **now)
        page.close_rating.click(chat.close_rating, None, **now)

    def link_traces(self, event: Any, now: dict[str, Any]) -> None:
        """After `event` MLflow's pages may run: link the answers to their traces."""
        event.then(self.handlers.redraw, None, self.widgets.shown, postprocess=False, **now)

    def _wire_turns(self, demo: gr.Blocks, new_chat: gr.Button, now: dict[str, Any]) -> None:
        page, chat = self.widgets, self.handlers
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


def _endpoint(service: ChatService, demo: gr.Blocks, target: LocalTarget) -> Callable[..., Any]:
    """The function behind ``/chat``. Each call stands alone; earlier messages are given, not remembered."""

    async def chat(
        request: gr.Request, message: str, history: list[dict[str, str]] | None = None
    ) -> AsyncIterator[str]:
        """Ask a question; the text of the answer so far comes with every update, the whole of it last.

        Args:
            message: The question.
            history: Earlier messages, oldest first, each with "role" (user or assistant) and "content".
        """
        spec = service.programs.get(target.program)
        inputs, earlier = {spec.chat_field: message}, _messages(history)
        asked = TurnRequest(target, inputs, earlier, visitor=visitor_of(request))
        live = LiveTurn(service, asked, spec)
        try:
            async for snapshot in live.snapshots(partial(delivered, demo, request)):
                if failure := snapshot.failure:
                    sentence = f"{failure.public_message} (Error {failure.error_id})"
                    raise gr.Error(sentence, print_exception=False)
                yield snapshot.answer_text
        finally:
            await live.stop()  # a client that went away must not keep the model busy

    return chat


def _messages(history: Any) -> tuple[Message, ...]:
    """The earlier messages, as a client gave them: they may be any JSON."""
    try:
        given = [(item["role"], item["content"]) for item in history or []]
        if all(role in {"user", "assistant"} and isinstance(text, str) for role, text in given):
            return tuple(Message(role, text) for role, text in given)
    except (TypeError, LookupError):
        pass
    wanted = 'Each message of the history needs a "role" (user or assistant) and a "content".'
    raise gr.Error(wanted, print_exception=False)
