"""What happens on an event of the chat. No drawing of components, no wiring: see `widgets` and `section`."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import partial
from typing import Any

import gradio as gr
from gradio.components import Component

from dspy_demo.chat import ChatService
from dspy_demo.errors import DemoError, InvalidInput
from dspy_demo.events import Status, TurnRequest
from dspy_demo.programs.inputs import check_images, image_chars, image_fields
from dspy_demo.ui.chat.conversation import Conversation, from_json
from dspy_demo.ui.chat.forms import json_object, pairs
from dspy_demo.ui.chat.live import LiveTurn
from dspy_demo.ui.chat.render import WireMessage, messages, turn_id_at
from dspy_demo.ui.chat.session import WINDOW, Session, Sessions
from dspy_demo.ui.chat.text import typed_text
from dspy_demo.ui.chat.turn_view import TurnView
from dspy_demo.ui.chat.widgets import PUT_BACK, RELOAD, ChatWidgets, notice_html
from dspy_demo.ui.components import Update, clicked, skip, visitor_of
from dspy_demo.ui.gradio_bridge import delivered
from dspy_demo.ui.sections.picks import SidebarPicks

#: How long a reload waits for the page it replaces to let go of its turn.
RELOAD_WAIT_S = 1.0
RESTARTED = "The app was restarted, or has let go of this page. Reload it to go on; the chat is kept."
STOP_FIRST = "Stop first, or wait for the answer."
NOT_HERE = "That answer is no longer part of this chat."
FORGOTTEN = "The chat is longer than the limit, so its earliest turns are not sent along."
NEW_CHAT = "New chat."
TAKEN_BACK = "The last question was taken back."
LOST = "The connection was lost for a moment and is back."
LOST_DRAFT = f"{LOST} Your question is still here: send it again."

Given = Mapping[Component, Any]


@dataclass(frozen=True, slots=True)
class ChatHandlers:
    """The chat: sending, stopping, and going back.

    A turn is three events: it is accepted (`send`, `example`, `retry`, `edit`) and runs from then on;
    `draw` shows it grow; `settle` shows its end. All three come also where a question was refused.
    Nothing here trusts the page: whether a turn runs is known from the session.
    """

    service: ChatService
    sessions: Sessions
    page: ChatWidgets
    _: KW_ONLY
    picks: SidebarPicks
    demo: gr.Blocks
    mlflow_url: Callable[[], str]
    #: One at a time: threads that compute take turns with the event loop, each of them.
    reading: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def load(self, saved: Any, request: gr.Request) -> Update:
        """A page has loaded: show the chat it had before a reload, else the one that its browser had last."""
        visitor, kept = visitor_of(request), json_object(saved) or {}
        chat, lost = str(kept.get("chat", "")), str(kept.get("lost"))
        before = self.sessions.of_chat(chat, visitor)
        if before is not None and before.live is not None:
            with contextlib.suppress(TimeoutError):  # its page notices a moment later that it is gone
                await asyncio.wait_for(before.live.ended(), RELOAD_WAIT_S)
        restored = before.conversation if before is not None else await self._read(kept.get("turns"))
        session = self.sessions.open(str(request.session_hash), visitor, chat)
        session.conversation = restored.changed(self._linked)
        session.answered = set(before.answered) if before is not None else set()
        self.sessions.make_room()
        return self._changed(session, notice_html({"chat": LOST, "draft": LOST_DRAFT}.get(lost, "")))

    async def send(self, given: dict[Component, Any], request: gr.Request) -> Update:
        """Enter, or the send button."""
        text = given[self.page.composer] or ""
        return self._act(request, given, lambda session: self._asked(session, given, text, clear=True))

    async def example(self, event: gr.SelectData, given: dict[Component, Any], request: gr.Request) -> Update:
        """One of the questions on the empty page."""
        return self._act(request, given, lambda session: self._asked(session, given, event.value["text"]))

    async def retry(self, event: gr.RetryData, given: dict[Component, Any], request: gr.Request) -> Update:
        """Ask a question again, of whatever model is picked now; what came after it is gone."""
        return self._act(request, given, lambda session: self._again(session, given, event.index))

    async def edit(self, event: gr.EditData, given: dict[Component, Any], request: gr.Request) -> Update:
        """Ask an edited question; what came after it is gone."""
        text = typed_text(str(event.value))
        return self._act(request, given, lambda session: self._again(session, given, event.index, text=text))

    async def draw(self, request: gr.Request) -> AsyncIterator[list[WireMessage]]:
        """The accepted turn as it grows, below what was there and stays as it is.

        Only the chat is an output: of any other Gradio makes a new component with every update.
        """
        session = self._known(request)
        live = session.undrawn if session else None
        if session is None or live is None:
            yield gr.skip()
            return
        session.undrawn, before = None, session.shown.drawn
        try:
            async for snapshot in live.snapshots(partial(delivered, self.demo, request)):
                if snapshot.running:
                    yield [*before, *messages(snapshot)]
        finally:
            # The browser went away; the page's unload event comes later where a proxy stands between.
            if live.view.running:
                await live.stop()
        # A refused question may have settled the turn already, before the last of these came.
        yield session.shown.drawn

    async def settle(self, request: gr.Request) -> Update:
        """After drawing: the end of the turn, the composer is free again, and the browser keeps a copy."""
        session = self._known(request)
        if session is None or session.live is not None or not session.unsettled:
            return skip()
        session.unsettled = False
        if session.set_aside is not None:  # New chat stopped the turn and has said so
            return self._shown(session)
        return self._changed(session, notice_html(self.service.tracer.notice or ""))

    async def link_traces(self, request: gr.Request) -> Update:
        """MLflow's pages run now, so that the footers can link to them."""
        session = self._known(request)
        if session is None or session.live is not None:
            return skip()
        session.conversation = session.conversation.changed(self._linked)
        return self._shown(session)

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
            session.go_back(turn)
            draft = given[self.page.composer]
            composer = self.page.composing(running=False, text=None if draft else turn.user)
            return self._changed(session, notice_html(TAKEN_BACK, PUT_BACK)) | {self.page.composer: composer}

        return self._act(request, given, take_back)

    async def stop(self, request: gr.Request) -> None:
        """Stop the running turn, also where its page was closed; `settle` then shows the end."""
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
        """Show one more window of older turns."""

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
            return {self.page.rating.row: gr.update(visible=False)} | action(session)
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
        again: TurnView | None = None,
    ) -> Update:
        """Begin a turn, and show what was asked at once; `draw` shows what becomes of it.

        Args:
            again: The turn that is asked again: its other inputs, and it and what follows are gone.
        """
        conversation = session.conversation.before(again) if again else session.conversation
        request, view = self._question(
            session, conversation, given, text=text, form=again.form if again else None
        )
        live = LiveTurn(self.service.turn(request), view, on_end=lambda last: session.end(self._linked(last)))
        session.begin(live, conversation)
        live.start()
        return self._shown(session, text="" if clear else None) | {self.page.notice: ""}

    def _again(self, session: Session, given: Given, message: Any, *, text: str | None = None) -> Update:
        old = self._turn(session, given, message)
        return self._asked(session, given, old.user if text is None else text, again=old)

    def _question(
        self,
        session: Session,
        conversation: Conversation,
        given: Given,
        *,
        text: str,
        form: Mapping[str, Any] | None,
    ) -> tuple[TurnRequest, TurnView]:
        """The turn of a question that goes on from `conversation`, and its view before the first event.

        Args:
            form: The other inputs of a question that is asked again; else they are read from `given`.

        Raises:
            DemoError: It cannot be asked; the sentence says why.
        """
        if not text.strip():
            raise InvalidInput("Write a question first.")
        target, spec = self.picks.target(given)
        fits = form and set(form) <= {field.name for field in spec.form_fields}
        values = dict(form) if form and fits else self.page.forms.values(spec, given)
        inputs = {**values, spec.chat_field: text}
        guest = session.visitor.role == "guest"
        check_images(spec, inputs, guest=guest)
        typed = sum(len(str(value)) for value in inputs.values()) - image_chars(inputs, image_fields(spec))
        room = self.service.input_max_chars(session.visitor) - typed
        history, whole = conversation.history(room) if spec.history_field else ((), True)
        request = TurnRequest(target, inputs, history, session.session_id, visitor=session.visitor)
        self.service.check(request)
        now_s = time.monotonic()
        view = TurnView(
            text,
            started_s=now_s,
            turn_id=request.turn_id,
            inputs=pairs(spec, values),
            form=values,
            expected=spec.outputs,
            answer_field=spec.answer_field,
            guest=guest,
        )
        return request, view if whole else view.apply(Status(FORGOTTEN), now_s)

    def _turn(self, session: Session, given: Given, message: Any) -> TurnView:
        """The turn of the message that was clicked.

        Raises:
            InvalidInput: The page shows what the session does not hold any more.
        """
        turn = session.conversation.find(turn_id_at(given[self.page.chatbot], message))
        if turn is None:
            raise InvalidInput(NOT_HERE)
        return turn

    async def _read(self, turns: Any) -> Conversation:
        async with self.reading:
            return await asyncio.to_thread(from_json, turns)

    # Drawing

    def _known(self, request: gr.Request) -> Session | None:
        """The session of an event; None where there is none, or another visitor opened it."""
        return self.sessions.get(str(request.session_hash), visitor_of(request))

    def _shown(self, session: Session, *, text: str | None = None) -> Update:
        """The chat, and the composer, with `text` in it where that is given."""
        shown, live = session.shown, session.live
        drawn = shown.drawn + (messages(live.view) if live else [])
        return {
            self.page.chatbot: gr.update(value=drawn, feedback_value=shown.ratings),
            self.page.composer: self.page.composing(running=live is not None, text=text),
            self.page.earlier: gr.update(visible=len(shown.turns) < len(session.conversation.turns)),
        }

    def _changed(self, session: Session, notice: str) -> Update:
        """The page after the chat was changed, which the browser keeps."""
        return self._shown(session) | {self.page.saved: session.saved, self.page.notice: notice}

    def _linked(self, view: TurnView) -> TurnView:
        """With the link to its trace, where it is shown now."""
        url, trace_id = self.mlflow_url(), view.trace_id
        link = self.service.tracer.link(trace_id, url) if url and trace_id else None
        return replace(view, trace_url=link or "")
