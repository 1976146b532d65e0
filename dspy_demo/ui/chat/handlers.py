"""What happens on an event of the chat. No drawing of components, no wiring: see `widgets` and `section`."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import gradio as gr
from gradio.components import Component

from dspy_demo.chat import ChatService
from dspy_demo.errors import DemoError, InvalidInput
from dspy_demo.ui.chat.conversation import Conversation, from_json
from dspy_demo.ui.chat.live import LiveTurn
from dspy_demo.ui.chat.notices import PUT_BACK, RELOAD, Update, notice_html
from dspy_demo.ui.chat.questions import Picks, Questions
from dspy_demo.ui.chat.render import WireMessage, messages, turn_id_at
from dspy_demo.ui.chat.session import WINDOW, Session, Sessions
from dspy_demo.ui.chat.text import typed_text
from dspy_demo.ui.chat.turn_view import TurnView
from dspy_demo.ui.chat.widgets import ChatWidgets
from dspy_demo.ui.components import clicked, visitor_of
from dspy_demo.ui.gradio_bridge import delivered

#: How long a reload waits for the page it replaces to let go of its turn.
RELOAD_WAIT_S = 1.0
RESTARTED = "The app was restarted, or has let go of this page. Reload it to go on; the chat is kept."
STOP_FIRST = "Stop first, or wait for the answer."
NOT_HERE = "That answer is no longer part of this chat."
NEW_CHAT = "New chat."
TAKEN_BACK = "The last question was taken back."
LOST = "The connection was lost for a moment and is back."
LOST_DRAFT = f"{LOST} Your question is still here: send it again."

Given = Mapping[Component, Any]


@dataclass(frozen=True, slots=True)
class ChatHandlers:
    """The chat: sending, stopping, and going back.

    A turn is three events: it is accepted (`send`, `example`, `retry`, `edit`) and runs from then on;
    `draw` shows it grow; `settle` frees the composer. All three come also where a question was refused.
    Nothing here trusts the page: whether a turn runs is known from the session.
    """

    service: ChatService
    sessions: Sessions
    page: ChatWidgets
    picks: Picks
    demo: gr.Blocks
    mlflow_url: Callable[[], str]
    #: One at a time: threads that compute take turns with the event loop, each of them.
    reading: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def load(self, saved: Any, request: gr.Request) -> Update:
        """A page has loaded: show the chat it had before a reload, else the one that its browser had last."""
        visitor, kept = visitor_of(request), _object(saved)
        chat, lost = (
            str(kept.get("chat", "")),
            {"chat": LOST, "draft": LOST_DRAFT}.get(str(kept.get("lost")), ""),
        )
        before = self.sessions.of_chat(chat, visitor)
        if before is not None and before.live is not None:
            with contextlib.suppress(TimeoutError):  # its page notices a moment later that it is gone
                await asyncio.wait_for(before.live.ended(), RELOAD_WAIT_S)
        restored = before.conversation if before is not None else await self._read(kept.get("turns"))
        session = self.sessions.open(str(request.session_hash), visitor, chat)
        session.conversation = restored
        session.answered = set(before.answered) if before is not None else set()
        self.sessions.make_room()
        self._link_traces(session)
        return self._shown(session) | {self.page.saved: session.saved, self.page.notice: notice_html(lost)}

    async def unload(self, request: gr.Request) -> None:
        """A page was closed or reloaded: end its turn, also while the model is silent."""
        await self.stop(request)

    async def send(self, given: dict[Component, Any], request: gr.Request) -> Update:
        """Enter, or the send button."""
        text = given[self.page.composer] or ""
        return self._act(request, given, lambda session: self._asked(session, given, text, clear=True))

    async def example(self, event: gr.SelectData, given: dict[Component, Any], request: gr.Request) -> Update:
        """One of the questions on the empty page."""
        return self._act(request, given, lambda session: self._asked(session, given, event.value["text"]))

    async def retry(self, event: gr.RetryData, given: dict[Component, Any], request: gr.Request) -> Update:
        """Ask a question again, of whatever model is picked now; what came after it is gone."""
        return self._act(request, given, lambda session: self._asked_again(session, given, event.index))

    async def edit(self, event: gr.EditData, given: dict[Component, Any], request: gr.Request) -> Update:
        """Ask an edited question; what came after it is gone."""
        text = typed_text(str(event.value))
        return self._act(
            request, given, lambda session: self._asked_again(session, given, event.index, text=text)
        )

    async def draw(self, request: gr.Request) -> AsyncIterator[list[WireMessage]]:
        """The accepted turn as it grows, below what was there and stays as it is.

        Only the chat is an output: of any other Gradio makes a new component with every update.
        """
        session = self._known(request)
        live = session.undrawn if session else None
        if session is None or live is None:
            yield gr.skip()
            return
        session.undrawn = None
        before = session.conversation.drawn(self._first(session, live.view))
        try:
            async for snapshot in live.snapshots(partial(delivered, self.demo, request)):
                if snapshot.running:
                    yield [*before, *messages(snapshot)]
        finally:
            # The browser went away; see `unload`, which comes later where a proxy stands between.
            if live.view.running:
                await live.stop()
        yield session.conversation.drawn(self._first(session))

    async def settle(self, request: gr.Request) -> Update:
        """After drawing: the composer is free again, and the browser keeps a copy."""
        session = self._known(request)
        if session is None or session.live is not None or not session.unsettled:
            return _nothing()
        session.unsettled = False
        if session.set_aside is not None:
            # New chat stopped the turn and has said so; the end of the drawing may have come after it.
            return self._shown(session)
        rated = gr.update(feedback_value=session.conversation.ratings(self._first(session)))
        notice = notice_html(self.service.tracer.notice or "")
        saved = {self.page.saved: session.saved, self.page.notice: notice}
        return self._controls(session) | saved | {self.page.chatbot: rated}

    async def link_traces(self, request: gr.Request) -> Update:
        """MLflow's pages run now, so that the footers can link to them."""
        session = self._known(request)
        if session is None or session.live is not None:
            return _nothing()
        self._link_traces(session)
        return self._shown(session)

    async def program_changed(self, given: dict[Component, Any]) -> Update:
        """Another program answers: its examples, its form."""
        try:
            return self.page.answering(self.picks.answering(given))
        except DemoError:
            return _nothing()

    async def undo(self, event: gr.UndoData, given: dict[Component, Any], request: gr.Request) -> Update:
        """Take a turn back, its question into the composer where nothing else is written there."""

        def take_back(session: Session) -> Update:
            index = self._turn(session, given, event.index)
            question = session.conversation.turns[index].view.user
            session.go_back(index)
            draft = given[self.page.composer]
            composer = self.page.composing(running=False, text=None if draft else question)
            return self._changed(session, notice_html(TAKEN_BACK, PUT_BACK)) | {self.page.composer: composer}

        return self._act(request, given, take_back)

    async def stop(self, request: gr.Request) -> None:
        """Stop the running turn; its own stream of updates then draws the end."""
        session = self._known(request)
        if session is not None and session.live is not None:
            await session.live.stop()

    async def new_chat(self, request: gr.Request) -> Update:
        """Start over. A running turn is stopped first."""
        await self.stop(request)

        def start_over(session: Session) -> Update:
            session.start_over()
            return self._changed(session, notice_html(NEW_CHAT, PUT_BACK) if session.set_aside else "")

        return self._act(request, {}, start_over)

    async def show_earlier(self, request: gr.Request) -> Update:
        """Show one more window of older messages."""

        def show(session: Session) -> Update:
            session.window += WINDOW
            return self._shown(session)

        return self._act(request, {}, show)

    async def fix(self, event: gr.EventData, request: gr.Request) -> Update:
        """The button of a notice that the chat can do. A model server is restarted by its own section."""

        def put_back(session: Session) -> Update:
            session.restore()
            return self._changed(session, "")

        match clicked(event):
            case "use-local":
                return self.picks.use_local() | {self.page.notice: ""}
            case "put-back":
                return self._act(request, {}, put_back)
            case _:
                return {self.page.notice: ""}

    # Asking

    def _act(self, request: gr.Request, given: Given, action: Callable[[Session], Update]) -> Update:
        """What `action` does with the session, or the notice why it cannot: it stays until the next edit."""
        session = self._known(request)
        if session is None:
            return {self.page.notice: notice_html(RESTARTED, RELOAD, wrong=True)}
        if session.live is not None:
            return {self.page.notice: notice_html(STOP_FIRST, wrong=True)}
        try:
            return action(session)
        except DemoError as error:
            # The page may show an edited question as if it had been asked.
            ways_out = self.picks.ways_out(given, error)
            notice = notice_html(error.public_message, *ways_out, wrong=True)
            return self._shown(session) | {self.page.notice: notice}

    def _asked(
        self,
        session: Session,
        given: Given,
        text: str,
        *,
        clear: bool = False,
        form: Mapping[str, Any] | None = None,
        after: Conversation | None = None,
    ) -> Update:
        """Begin a turn, and show what was asked at once; `draw` shows what becomes of it.

        Args:
            form: The other inputs of a question that is asked again.
            after: The conversation that it goes on from; the session's own where none is given.
        """
        conversation = session.conversation if after is None else after
        questions = Questions(self.service, self.picks, self.page.forms)
        request, view = questions.ask(session, conversation, given, text=text, form=form)
        live = LiveTurn(self.service.turn(request), view, on_end=lambda last: session.end(self._linked(last)))
        session.begin(live, conversation)
        live.start()
        first = self._first(session, view)
        drawn = conversation.drawn(first) + messages(view)
        return {
            self.page.notice: "",
            self.page.rating.row: gr.update(visible=False),
            self.page.chatbot: gr.update(value=drawn, feedback_value=conversation.ratings(first)),
            self.page.composer: self.page.composing(running=True, text="" if clear else None),
            self.page.earlier: gr.update(visible=first > 0),
        }

    def _asked_again(
        self, session: Session, given: Given, message: Any, *, text: str | None = None
    ) -> Update:
        index = self._turn(session, given, message)
        old = session.conversation.turns[index].view
        asked = old.user if text is None else text
        return self._asked(session, given, asked, form=old.form, after=session.conversation.before(index))

    def _turn(self, session: Session, given: Given, message: Any) -> int:
        """The turn of the message that was clicked.

        Raises:
            InvalidInput: The page shows what the session does not hold any more.
        """
        index = session.conversation.index_of(turn_id_at(given[self.page.chatbot], message))
        if index is None:
            raise InvalidInput(NOT_HERE)
        return index

    async def _read(self, turns: Any) -> Conversation:
        async with self.reading:
            return await asyncio.to_thread(from_json, turns)

    # Drawing

    def _known(self, request: gr.Request) -> Session | None:
        """The session of an event; None where there is none, or another visitor opened it."""
        return self.sessions.get(str(request.session_hash), visitor_of(request))

    def _first(self, session: Session, live: TurnView | None = None) -> int:
        """The first turn on the page; a running one needs room too."""
        room = len(messages(live)) if live else 0
        return session.conversation.window(session.window - room)

    def _shown(self, session: Session) -> Update:
        first = self._first(session)
        drawn, ratings = session.conversation.drawn(first), session.conversation.ratings(first)
        return {self.page.chatbot: gr.update(value=drawn, feedback_value=ratings)} | self._controls(session)

    def _controls(self, session: Session) -> Update:
        return {
            self.page.composer: self.page.composing(running=False),
            self.page.earlier: gr.update(visible=self._first(session) > 0),
        }

    def _changed(self, session: Session, notice: str) -> Update:
        """The page after the chat was changed otherwise than by a question."""
        return self._shown(session) | {
            self.page.saved: session.saved,
            self.page.rating.row: gr.update(visible=False),
            self.page.notice: notice,
        }

    def _linked(self, view: TurnView) -> TurnView:
        """With the link to its trace, where it is shown now."""
        url, trace_id = self.mlflow_url(), view.trace_id
        link = self.service.tracer.link(trace_id, url) if url and trace_id else None
        return replace(view, trace_url=link or "")

    def _link_traces(self, session: Session) -> None:
        session.conversation = session.conversation.linked(lambda view: self._linked(view).trace_url)


def _object(text: Any) -> dict[str, Any]:
    """What a browser kept: it may be anything."""
    try:
        kept = json.loads(text) if isinstance(text, str) else {}
    except (ValueError, RecursionError):
        return {}
    return kept if isinstance(kept, dict) else {}


def _nothing() -> Update:
    skip: Update = gr.skip()
    return skip
