"""Thumbs below an answer, and the comment that may follow: assessments on the turn's trace."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from dspy_demo.chat import ChatService
from dspy_demo.errors import DemoError, InvalidInput
from dspy_demo.ui.chat.notices import Update, notice_html
from dspy_demo.ui.chat.render import WireMessage, turn_id_at
from dspy_demo.ui.chat.session import Session, Sessions
from dspy_demo.ui.chat.turn_view import TurnView
from dspy_demo.ui.components import visitor_of

COMMENT_MAX_CHARS = 2000
NOT_RECORDED = "Can't rate: this answer has no trace."
NOT_OF_NOW = "This answer is from before the app was restarted, so it can no longer be rated."
NOT_HERE = "Can't rate: this answer is no longer part of the chat."
REMOVED = "Rating removed."
THANKS = "Thank you. The rating is with the answer's trace in MLflow."


class RatingBox:
    """Where a comment is written. Drawn when it is made.

    Attributes:
        turn: The id of the turn that it is about.
    """

    def __init__(self) -> None:
        with gr.Row(visible=False, elem_id="rating") as self.row:
            self.comment = gr.Textbox(
                label="Comment on the answer",
                show_label=False,
                container=False,
                max_lines=4,
                max_length=COMMENT_MAX_CHARS,
                scale=1,
                min_width=120,
            )
            small: dict[str, Any] = {"size": "sm", "min_width": 0, "scale": 0}
            self.send = gr.Button("Add comment", elem_classes="plain", **small)
            self.close = gr.Button("Close", elem_classes="plain bare", **small)
        self.turn = gr.State("")


@dataclass(frozen=True, slots=True)
class RatingHandlers:
    """Any visitor may rate the answers of their own chat.

    Which trace a turn has comes from the browser after a restart, and a guest could name any: guests rate
    what ran since then.
    """

    sessions: Sessions
    service: ChatService
    box: RatingBox
    notice: gr.HTML
    saved: gr.HTML

    def wire(self, chatbot: gr.Chatbot, now: dict[str, Any]) -> None:
        box, now = (
            self.box,
            now | {"outputs": {self.box.row, self.box.comment, self.box.turn, self.notice, self.saved}},
        )
        chatbot.like(self.rate, chatbot, js="(...given) => chatPage.byId(given)", **now)
        gr.on([box.send.click, box.comment.submit], self.comment, [box.comment, box.turn], **now)
        box.close.click(self.closed, None, **now)

    async def rate(self, event: gr.LikeData, chat: list[WireMessage], request: gr.Request) -> Update:
        """A thumb was clicked; the same one again takes it back."""
        rated = event.liked if isinstance(event.liked, bool) else None
        try:
            session, index = self._rateable(turn_id_at(chat, event.index), request)
        except DemoError as error:
            return {self.notice: notice_html(error.public_message, wrong=True)}
        view = session.conversation.turns[index].view
        comment = view.comment if rated is not None else ""
        # Nobody has something good to say about an answer that did not come.
        asks = rated is not None and not (rated and view.state == "failed")
        wanted = "What was good about it? (optional)" if rated else "What went wrong? (optional)"
        return self._keep(session, index, replace(view, rated=rated, comment=comment)) | {
            self.box.row: gr.update(visible=asks),
            self.box.comment: gr.update(value=comment, placeholder=wanted),
            self.box.turn: view.turn_id,
            self.notice: "" if rated is not None else notice_html(REMOVED),
        }

    async def comment(self, text: str, turn_id: str, request: gr.Request) -> Update:
        """A comment was sent to the rating that was just given."""
        try:
            session, index = self._rateable(turn_id, request)
        except DemoError as error:
            return {self.notice: notice_html(error.public_message, wrong=True)}
        view = session.conversation.turns[index].view
        if view.rated is None:
            return self.closed()
        rated = replace(view, comment=(text or "").strip()[:COMMENT_MAX_CHARS])
        return self._keep(session, index, rated) | self.closed() | {self.notice: notice_html(THANKS)}

    def closed(self) -> Update:
        return {self.box.row: gr.update(visible=False), self.box.comment: ""}

    def _rateable(self, turn_id: str, request: gr.Request) -> tuple[Session, int]:
        """The turn that is to be rated, which counts as a rating.

        Raises:
            DemoError: It cannot be rated.
        """
        visitor = visitor_of(request)
        session = self.sessions.get(str(request.session_hash), visitor)
        index = session.conversation.index_of(turn_id) if session else None
        if session is None or index is None:
            raise InvalidInput(NOT_HERE)
        trace_id = session.conversation.turns[index].view.trace_id
        if trace_id is None:
            raise InvalidInput(NOT_RECORDED)
        if visitor.role != "owner" and trace_id not in session.answered:
            raise InvalidInput(NOT_OF_NOW)
        if self.service.limits is not None:
            self.service.limits.count_rating(visitor)
        return session, index

    def _keep(self, session: Session, index: int, view: TurnView) -> Update:
        """In the conversation and in the browser, for a reload, and in MLflow, where nothing waits for it."""
        session.conversation = session.conversation.with_view(index, view)
        user = session.visitor.name
        self.service.tracer.feedback(str(view.trace_id), view.rated, view.comment or None, user=user)
        return {self.saved: session.saved}
