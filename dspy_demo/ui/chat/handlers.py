"""What happens on an event of the chat. No drawing of components, no wiring: see `widgets` and `section`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import KW_ONLY, dataclass, replace
from functools import partial
from typing import Any

import gradio as gr
from gradio.components import Component

from dspy_demo.chat import ChatService
from dspy_demo.errors import DemoError, InvalidInput
from dspy_demo.events import TurnRequest
from dspy_demo.programs.inputs import check_images
from dspy_demo.ui.chat.forms import json_object
from dspy_demo.ui.chat.live import LiveTurn
from dspy_demo.ui.chat.render import WireMessage, turn_id_at
from dspy_demo.ui.chat.session import WINDOW, FinishedTurn, Session, Sessions, history, new_chat_id
from dspy_demo.ui.chat.text import JOINER
from dspy_demo.ui.chat.turn_view import TurnView
from dspy_demo.ui.chat.widgets import COMMENT_MAX_CHARS, PUT_BACK, RELOAD, ChatWidgets, notice_html
from dspy_demo.ui.components import Given, Update, clicked, skip, visitor_of
from dspy_demo.ui.gradio_bridge import delivered
from dspy_demo.ui.sections.picks import SidebarPicks

RESTARTED = "The app was restarted, or has let go of this page. Reload it to go on; the chat is kept."
LOST = "The connection was lost for a moment and is back. A question that is still here, send again."
_THUMBS = {True: "Like", False: "Dislike", None: None}


@dataclass(frozen=True, slots=True)
class ChatHandlers:
    """The chat: sending, stopping, going back, rating. Nothing here trusts the page.

    Every answer to the page is drawn from the session as it is then, and has a number, by which the page
    knows one that was overtaken, and asks for another (`redraw`). A turn runs from the moment it is accepted;
    the page sees that one runs and asks for its drawing (`draw`), then for its end (`settle`).
    """

    service: ChatService
    sessions: Sessions
    page: ChatWidgets
    _: KW_ONLY
    picks: SidebarPicks
    demo: gr.Blocks
    mlflow_url: Callable[[], str]

    async def load(self, saved: Any, request: gr.Request) -> Update:
        """A page has loaded: show the chat it had before a reload, else the one that its browser had last."""
        visitor, kept = visitor_of(request), json_object(saved) or {}
        chat = str(kept.get("chat", ""))
        before = self.sessions.of_chat(chat, visitor)
        if before is not None and before.live is not None:
            with contextlib.suppress(TimeoutError):  # its page notices a moment later that it is gone
                await asyncio.wait_for(before.live.ended(), timeout=1)
        read = self.sessions.read
        restored = before.turns if before else await asyncio.to_thread(read, kept.get("turns"))
        session = self.sessions.open(str(request.session_hash), visitor, chat, restored)
        return self._shown(session, notice_html(LOST if kept.get("lost") else ""))

    async def send(self, given: dict[Component, Any], request: gr.Request) -> Update:
        text = given[self.page.composer]
        return self._act(request, given, lambda session: self._asked(session, given, text))

    async def example(self, event: gr.SelectData, given: dict[Component, Any], request: gr.Request) -> Update:
        return self._act(request, given, lambda session: self._asked(session, given, event.value["text"]))

    async def retry(self, event: gr.RetryData, given: dict[Component, Any], request: gr.Request) -> Update:
        return self._act(request, given, lambda session: self._asked(session, given, None, at=event.index))

    async def edit(self, event: gr.EditData, given: dict[Component, Any], request: gr.Request) -> Update:
        text = str(event.value).replace(JOINER, "")
        return self._act(request, given, lambda session: self._asked(session, given, text, at=event.index))

    async def draw(self, request: gr.Request) -> AsyncIterator[list[WireMessage]]:
        """The running turn as it grows, with the chat as the only output: others Gradio makes anew."""
        session = self._known(request)
        if session is not None and (live := session.live) is not None:
            try:
                async for snapshot in live.snapshots(partial(delivered, self.demo, request)):
                    if snapshot.running:
                        yield session.drawn(self._trace_url)
            finally:
                # The browser went away; the page's unload event comes later where a proxy stands between.
                if live.view.running:
                    await live.stop()
        yield gr.skip()  # what the chat is then, `settle` says

    async def settle(self, request: gr.Request) -> Update:
        """After drawing: the end of the turn, and the composer is free again."""
        session = self._known(request)
        if session is None:
            return skip()
        # New chat stopped the turn and has said so; or the next one runs already.
        said = session.set_aside is not None or session.live is not None
        return self._shown(session, None if said else notice_html(self.service.tracer.notice or ""))

    async def redraw(self, request: gr.Request) -> Update:
        """The chat as it is now, where the page cannot tell, or where its traces can be linked to."""
        return self._shown(session) if (session := self._known(request)) else skip()

    async def program_changed(self, given: dict[Component, Any]) -> Update:
        """Another program answers: its examples, its form."""
        try:
            return self.page.answering(self.picks.answering(given))
        except DemoError:
            return skip()

    async def undo(self, event: gr.UndoData, given: dict[Component, Any], request: gr.Request) -> Update:
        """Take a turn back, its question into the composer where nothing else is written there."""

        def take_back(session: Session) -> Update:
            turn = self._turn(session, given, event.index)
            session.set_aside = session.chat, session.turns
            session.turns = session.before(turn)
            draft = None if given[self.page.composer] else turn.user
            return self._shown(session, notice_html("The last question was taken back.", PUT_BACK), draft)

        return self._act(request, given, take_back)

    async def stop(self, request: gr.Request) -> None:
        """Stop the running turn, also where its page was closed; `settle` then shows the end."""
        session = self._known(request)
        if session is not None and session.live is not None:
            await session.live.stop()

    async def new_chat(self, request: gr.Request) -> Update:
        await self.stop(request)

        def start_over(session: Session) -> Update:
            session.window = WINDOW
            if session.turns:
                session.set_aside = session.chat, session.turns
                session.chat, session.turns = new_chat_id(), ()  # another session of MLflow's
            return self._shown(session, notice_html("New chat.", PUT_BACK) if session.set_aside else "")

        return self._act(request, {}, start_over)

    async def show_earlier(self, request: gr.Request) -> Update:
        if (session := self._known(request)) is None:
            return skip()
        session.window += WINDOW
        return self._shown(session)

    async def fix(self, event: gr.EventData, request: gr.Request) -> Update:
        """The button of a notice. A model server is restarted by its own section."""

        def put_back(session: Session) -> Update:
            if session.set_aside is not None:
                (session.chat, session.turns), session.set_aside = session.set_aside, None
            return self._shown(session, "")

        if clicked(event) == "put-back":
            return self._act(request, {}, put_back)
        return (self.picks.use_local() if clicked(event) == "use-local" else {}) | {self.page.notice: ""}

    async def rate(self, event: gr.LikeData, chat: list[WireMessage], request: gr.Request) -> Update:
        """A thumb was clicked; the same one again takes it back."""
        rated, page = event.liked if isinstance(event.liked, bool) else None, self.page
        try:
            session, view = self._rateable(turn_id_at(chat, event.index), request)
        except DemoError as error:
            return {page.notice: notice_html(error.public_message, wrong=True)}
        comment = view.comment if rated is not None else ""
        wanted = "What was good about it? (optional)" if rated else "What went wrong? (optional)"
        return {
            page.saved: self._keep(session, replace(view, rated=rated, comment=comment)),
            page.notice: "" if rated is not None else notice_html("Rating removed."),
            page.rating: gr.update(visible=rated is not None),
            page.comment: gr.update(value=comment, placeholder=wanted),
            page.rated_turn: view.turn_id,
        }

    async def comment(self, text: str, turn_id: str, request: gr.Request) -> Update:
        try:
            session, view = self._rateable(turn_id, request)
        except DemoError as error:
            return {self.page.notice: notice_html(error.public_message, wrong=True)}
        if view.rated is None:
            return self.close_rating()
        saved = self._keep(session, replace(view, comment=(text or "").strip()[:COMMENT_MAX_CHARS]))
        thanks = notice_html("Thank you. The rating is with the answer's trace in MLflow.")
        return self.close_rating() | {self.page.saved: saved, self.page.notice: thanks}

    def close_rating(self) -> Update:
        return {self.page.rating: gr.update(visible=False), self.page.comment: ""}

    def _rateable(self, turn_id: str, request: gr.Request) -> tuple[Session, TurnView]:
        """The turn that is to be rated, which counts as a rating; an error where it cannot be rated."""
        session = self._known(request)
        view = session.find(turn_id) if session else None
        if session is None or view is None:
            raise InvalidInput("Can't rate: this answer is no longer part of the chat.")
        if view.trace_id is None:
            raise InvalidInput("Can't rate: this answer has no trace.")
        if self.service.limits is not None:
            self.service.limits.count_rating(session.visitor)
        return session, view

    def _keep(self, session: Session, view: TurnView) -> str:
        """Keep a rated turn in the chat and in MLflow; what the browser is to keep."""
        user, new = session.visitor.name, FinishedTurn(view)
        session.turns = tuple(new if turn.view.turn_id == view.turn_id else turn for turn in session.turns)
        self.service.tracer.feedback(str(view.trace_id), view.rated, view.comment or None, user=user)
        return self.sessions.saved(session)

    def _act(self, request: gr.Request, given: Given, action: Callable[[Session], Update]) -> Update:
        """What `action` does with the session, or the notice why it cannot."""
        session = self._known(request)
        if session is None:
            return {self.page.notice: notice_html(RESTARTED, RELOAD, wrong=True)}
        if session.live is not None:
            return {self.page.notice: notice_html("Stop first, or wait for the answer.", wrong=True)}
        try:
            return {self.page.rating: gr.update(visible=False)} | action(session)
        except DemoError as error:
            # The page may show an edited question as if it had been asked.
            ways_out = self.picks.ways_out(given, error)
            return self._shown(session, notice_html(error.public_message, *ways_out, wrong=True))

    def _asked(self, session: Session, given: Given, text: str | None, *, at: Any = None) -> Update:
        """Begin a turn, and show what was asked at once; `draw` shows what becomes of it.

        With `at`, a message of a turn, that turn is asked again, in its own words where `text` is None: its
        other inputs are kept, and what follows it is gone.
        """
        old = None if at is None else self._turn(session, given, at)
        turns = session.before(old) if old else session.turns
        text = old.user if old and text is None else text or ""
        if not text.strip():
            raise InvalidInput("Write a question first.")
        target, spec = self.picks.target(given)
        fits = old and old.inputs and set(old.inputs) <= {one.name for one in spec.form_fields}
        values = old.inputs if old and fits else self.page.forms.values(spec, given)
        inputs = {**values, spec.chat_field: text}
        pictures = check_images(spec, inputs, guest=session.visitor.role == "guest")
        typed = sum(len(str(value)) for value in inputs.values()) - pictures
        room = self.service.input_max_chars(session.visitor) - typed
        earlier = history(turns, room) if spec.history_field else ()
        request = TurnRequest(target, inputs, earlier, session.session_id, visitor=session.visitor)
        self.service.check(request)
        live = LiveTurn(self.service, request, spec, on_end=session.end)
        session.turns, session.set_aside, session.live = turns, None, live
        return self._shown(session, "", "" if text == given[self.page.composer] else None)

    def _turn(self, session: Session, given: Given, message: Any) -> TurnView:
        """The turn of the message that was clicked, which the session may not hold any more."""
        turn = session.find(turn_id_at(given[self.page.chatbot], message))
        if turn is None:
            raise InvalidInput("That answer is no longer part of this chat.")
        return turn

    def _known(self, request: gr.Request) -> Session | None:
        return self.sessions.get(str(request.session_hash), visitor_of(request))

    def _shown(self, session: Session, notice: str | None = None, draft: str | None = None) -> Update:
        running = session.live is not None
        composer = gr.update(submit_btn=False if running else "Send", stop_btn="Stop" if running else False)
        update: Update = {
            self.page.chatbot: gr.update(
                value=session.drawn(self._trace_url),
                feedback_value=[_THUMBS[turn.view.rated] for turn in session.shown],
            ),
            self.page.composer: composer if draft is None else {**composer, "value": draft},
            self.page.earlier: gr.update(visible=len(session.shown) < len(session.turns)),
            self.page.saved: self.sessions.saved(session),
        }
        return update if notice is None else update | {self.page.notice: notice}

    def _trace_url(self, view: TurnView) -> str:
        url = self.mlflow_url()
        return (self.service.tracer.link(view.trace_id, url) if url and view.trace_id else None) or ""
