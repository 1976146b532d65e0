"""Thumbs below an answer, and the comment that may follow: assessments on the turn's trace."""

from __future__ import annotations

import dataclasses
import html
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component

from dspy_demo.chat import ChatService
from dspy_demo.errors import RateLimited
from dspy_demo.events import Visitor
from dspy_demo.ui.asker import visitor_of
from dspy_demo.ui.store import ConversationStore, Tab
from dspy_demo.ui.turn_view import TurnView

Update = dict[Component, Any]

COMMENT_MAX_CHARS = 2000
NOT_RECORDED = "This answer was not recorded in MLflow, so a rating has no place to go."
NOT_OF_NOW = "This answer is from before the app was restarted, so it can no longer be rated."
THANKS = "Thank you. The rating is with the answer's trace in MLflow."


@dataclass(frozen=True, slots=True)
class RatingBox:
    """Where a comment is written.

    Attributes:
        turn: The id of the turn that it is about.
    """

    row: gr.Row
    comment: gr.Textbox
    send: gr.Button
    close: gr.Button
    turn: gr.State

    @property
    def outputs(self) -> set[Component]:
        return {self.row, self.comment, self.turn}


def draw_rating_box() -> RatingBox:
    with gr.Row(visible=False, elem_id="rating") as row:
        comment = gr.Textbox(
            label="Comment on the answer",
            show_label=False,
            container=False,
            placeholder="What was good about it? (optional)",
            max_lines=4,
            max_length=COMMENT_MAX_CHARS,
            scale=1,
            min_width=120,
        )
        send = gr.Button("Add comment", size="sm", min_width=0, scale=0, elem_classes="plain")
        close = gr.Button("Close", size="sm", min_width=0, scale=0, elem_classes="plain bare")
    return RatingBox(row, comment, send, close, gr.State(""))


@dataclass(frozen=True, slots=True)
class RatingHandlers:
    """Any visitor may rate the answers of their own chat.

    Which trace a turn has comes from the browser after a restart, and a guest could name any: guests rate
    what ran since then.
    """

    store: ConversationStore
    service: ChatService
    box: RatingBox
    notice: gr.HTML
    saved: gr.BrowserState

    @property
    def outputs(self) -> set[Component]:
        return {*self.box.outputs, self.notice, self.saved}

    async def rate(self, event: gr.LikeData, request: gr.Request) -> Update:
        """A thumb was clicked; the same one again takes it back."""
        tab = self.store.tab(str(request.session_hash), visitor_of(request))
        position = event.index if isinstance(event.index, int) else event.index[0]
        if tab is None or not tab.visitor.conversation.turns:
            return {self.notice: ""}
        conversation = tab.visitor.conversation
        index = conversation.turn_at(position, conversation.window(tab.window))
        view = conversation.turns[index].view
        if refusal := self._refusal(tab, view, visitor_of(request)):
            return {self.notice: html.escape(refusal)}
        rated = event.liked if isinstance(event.liked, bool) else None
        comment = view.comment if rated is not None else ""
        self._keep(tab, index, rated, comment)
        wanted = "What was good about it? (optional)" if rated else "What went wrong? (optional)"
        return {
            self.box.row: gr.update(visible=rated is not None),
            self.box.comment: gr.update(value=comment, placeholder=wanted),
            self.box.turn: view.turn_id,
            self.notice: "" if rated is not None else "The rating was taken back.",
        }

    async def comment(self, text: str, turn_id: str, request: gr.Request) -> Update:
        """A comment was sent to the rating that was just given."""
        tab = self.store.tab(str(request.session_hash), visitor_of(request))
        turns = tab.visitor.conversation.turns if tab else ()
        for index, turn in enumerate(turns):
            if tab is not None and turn.view.turn_id == turn_id and turn.view.rated is not None:
                if refusal := self._refusal(tab, turn.view, visitor_of(request)):
                    return {self.notice: html.escape(refusal)}
                self._keep(tab, index, turn.view.rated, (text or "").strip()[:COMMENT_MAX_CHARS])
                return self.closed() | {self.notice: html.escape(THANKS)}
        return self.closed()

    def closed(self) -> Update:
        return {self.box.row: gr.update(visible=False), self.box.comment: ""}

    def _refusal(self, tab: Tab, view: TurnView, visitor: Visitor) -> str:
        """Why this answer cannot be rated now; empty where it can, which counts as a rating."""
        if view.trace_id is None:
            return NOT_RECORDED
        if visitor.role != "owner" and view.trace_id not in tab.visitor.answered:
            return NOT_OF_NOW
        try:
            if self.service.limits is not None:
                self.service.limits.count_rating(visitor)
        except RateLimited as error:
            return error.public_message
        return ""

    def _keep(self, tab: Tab, index: int, rated: bool | None, comment: str) -> None:
        """In the conversation, for a reload, and in MLflow, where nothing waits for it."""
        conversation = tab.visitor.conversation
        view = dataclasses.replace(conversation.turns[index].view, rated=rated, comment=comment)
        tab.visitor.conversation = conversation.with_view(index, view)
        self.service.tracer.feedback(str(view.trace_id), rated, comment or None, user=tab.visitor.name)
