"""Thumbs below an answer, and the comment that may follow: assessments on the turn's trace."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from dspy_demo.chat import ChatService
from dspy_demo.errors import DemoError, InvalidInput
from dspy_demo.ui.chat.render import WireMessage, turn_id_at
from dspy_demo.ui.chat.session import Session, Sessions
from dspy_demo.ui.chat.turn_view import TurnView
from dspy_demo.ui.chat.widgets import COMMENT_MAX_CHARS, ChatWidgets, notice_html
from dspy_demo.ui.components import Update, visitor_of

NOT_RECORDED = "Can't rate: this answer has no trace."
NOT_HERE = "Can't rate: this answer is no longer part of the chat."
THANKS = "Thank you. The rating is with the answer's trace in MLflow."


@dataclass(frozen=True, slots=True)
class RatingHandlers:
    """Any visitor may rate the answers of their own chat."""

    service: ChatService
    sessions: Sessions
    page: ChatWidgets

    def wire(self, now: dict[str, Any]) -> None:
        page = self.page
        now = now | {
            "outputs": {page.rating, page.comment, page.rated_turn, page.notice, page.saved},
        }
        page.chatbot.like(self.rate, page.chatbot, js="(...given) => chatPage.byId(given)", **now)
        sent = [page.send_comment.click, page.comment.submit]
        gr.on(sent, self.comment, [page.comment, page.rated_turn], **now)
        page.close_rating.click(self.closed, None, **now)

    async def rate(self, event: gr.LikeData, chat: list[WireMessage], request: gr.Request) -> Update:
        """A thumb was clicked; the same one again takes it back."""
        rated, page = event.liked if isinstance(event.liked, bool) else None, self.page
        try:
            session, view = self._rateable(turn_id_at(chat, event.index), request)
        except DemoError as error:
            return {page.notice: notice_html(error.public_message, wrong=True)}
        comment = view.comment if rated is not None else ""
        # Nobody has something good to say about an answer that did not come.
        asks = rated is not None and not (rated and view.state == "failed")
        wanted = "What was good about it? (optional)" if rated else "What went wrong? (optional)"
        return {
            page.saved: self._keep(session, replace(view, rated=rated, comment=comment)),
            page.notice: "" if rated is not None else notice_html("Rating removed."),
            page.rating: gr.update(visible=asks),
            page.comment: gr.update(value=comment, placeholder=wanted),
            page.rated_turn: view.turn_id,
        }

    async def comment(self, text: str, turn_id: str, request: gr.Request) -> Update:
        """A comment was sent to the rating that was just given."""
        try:
            session, view = self._rateable(turn_id, request)
        except DemoError as error:
            return {self.page.notice: notice_html(error.public_message, wrong=True)}
        if view.rated is None:
            return self.closed()
        saved = self._keep(session, replace(view, comment=(text or "").strip()[:COMMENT_MAX_CHARS]))
        return self.closed() | {self.page.saved: saved, self.page.notice: notice_html(THANKS)}

    def closed(self) -> Update:
        return {self.page.rating: gr.update(visible=False), self.page.comment: ""}

    def _rateable(self, turn_id: str, request: gr.Request) -> tuple[Session, TurnView]:
        """The turn that is to be rated, which counts as a rating.

        Raises:
            DemoError: It cannot be rated.
        """
        visitor = visitor_of(request)
        session = self.sessions.get(str(request.session_hash), visitor)
        view = session.find(turn_id) if session else None
        if session is None or view is None:
            raise InvalidInput(NOT_HERE)
        if view.trace_id is None:
            raise InvalidInput(NOT_RECORDED)
        if self.service.limits is not None:
            self.service.limits.count_rating(visitor)
        return session, view

    def _keep(self, session: Session, view: TurnView) -> str:
        """In the chat and in MLflow, where nothing waits for it; what the browser is to keep."""
        session.change(view)
        user = session.visitor.name
        self.service.tracer.feedback(str(view.trace_id), view.rated, view.comment or None, user=user)
        return self.sessions.saved(session)
