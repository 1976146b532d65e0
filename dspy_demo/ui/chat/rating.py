"""Thumbs below an answer, and the comment that may follow: assessments on the turn's trace."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component

from dspy_demo.chat import ChatService
from dspy_demo.errors import RateLimited
from dspy_demo.events import Visitor
from dspy_demo.ui.asker import visitor_of
from dspy_demo.ui.chat.notices import notice_html
from dspy_demo.ui.chat.render import WireMessage, turn_id_at
from dspy_demo.ui.chat.saved import saved_copy
from dspy_demo.ui.chat.tabs import Tab, Tabs
from dspy_demo.ui.chat.turn_view import TurnView

Update = dict[Component, Any]

COMMENT_MAX_CHARS = 2000
NOT_RECORDED = "Can't rate: this answer has no trace."
NOT_OF_NOW = "This answer is from before the app was restarted, so it can no longer be rated."
NOT_HERE = "Can't rate: this answer is no longer part of the chat."
REMOVED = "Rating removed."
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

    tabs: Tabs
    service: ChatService
    box: RatingBox
    notice: gr.HTML
    saved: gr.BrowserState

    @property
    def outputs(self) -> set[Component]:
        return {*self.box.outputs, self.notice, self.saved}

    async def rate(self, event: gr.LikeData, chat: list[WireMessage], request: gr.Request) -> Update:
        """A thumb was clicked; the same one again takes it back."""
        tab = self.tabs.get(str(request.session_hash), visitor_of(request))
        index = tab.conversation.index_of(turn_id_at(chat, event.index)) if tab else None
        if tab is None or index is None:
            return {self.notice: notice_html(NOT_HERE, wrong=True)}
        view = tab.conversation.turns[index].view
        if refusal := self._refusal(tab, view, visitor_of(request)):
            return {self.notice: notice_html(refusal, wrong=True)}
        rated = event.liked if isinstance(event.liked, bool) else None
        comment = view.comment if rated is not None else ""
        # Nobody has something good to say about an answer that did not come.
        asks = rated is not None and not (rated and view.state == "failed")
        wanted = "What was good about it? (optional)" if rated else "What went wrong? (optional)"
        return self._kept(tab, index, rated, comment) | {
            self.box.row: gr.update(visible=asks),
            self.box.comment: gr.update(value=comment, placeholder=wanted),
            self.box.turn: view.turn_id,
            self.notice: "" if rated is not None else notice_html(REMOVED),
        }

    async def comment(self, text: str, turn_id: str, request: gr.Request) -> Update:
        """A comment was sent to the rating that was just given."""
        tab = self.tabs.get(str(request.session_hash), visitor_of(request))
        index = tab.conversation.index_of(turn_id) if tab else None
        if tab is None or index is None or tab.conversation.turns[index].view.rated is None:
            return self.closed()
        view = tab.conversation.turns[index].view
        if refusal := self._refusal(tab, view, visitor_of(request)):
            return {self.notice: notice_html(refusal, wrong=True)}
        comment = (text or "").strip()[:COMMENT_MAX_CHARS]
        return (
            self._kept(tab, index, view.rated, comment) | self.closed() | {self.notice: notice_html(THANKS)}
        )

    def closed(self) -> Update:
        return {self.box.row: gr.update(visible=False), self.box.comment: ""}

    def _refusal(self, tab: Tab, view: TurnView, visitor: Visitor) -> str:
        """Why this answer cannot be rated now; empty where it can, which counts as a rating."""
        if view.trace_id is None:
            return NOT_RECORDED
        if visitor.role != "owner" and view.trace_id not in tab.answered:
            return NOT_OF_NOW
        try:
            if self.service.limits is not None:
                self.service.limits.count_rating(visitor)
        except RateLimited as error:
            return error.public_message
        return ""

    def _kept(self, tab: Tab, index: int, rated: bool | None, comment: str) -> Update:
        """In the conversation and in the browser, for a reload, and in MLflow, where nothing waits for it."""
        view = dataclasses.replace(tab.conversation.turns[index].view, rated=rated, comment=comment)
        tab.conversation = tab.conversation.with_view(index, view)
        self.service.tracer.feedback(str(view.trace_id), rated, comment or None, user=tab.visitor.name)
        return {self.saved: saved_copy(tab)}
