"""The conversation of a page: its events and what happens on them, and ``/chat`` for programs.

Every answer to the page is drawn from the session as it is then, and has a number, by which the page knows
one that was overtaken, and asks for another (`redraw`). A turn runs from the moment it is accepted; the page
sees that one runs and asks for its drawing (`draw_turn`), then for its end. Nothing here trusts the page.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import gradio as gr

from dspy_demo.chat import ChatService
from dspy_demo.errors import DemoError, InvalidInput
from dspy_demo.events import LocalTarget, Message, TurnFailed, TurnRequest
from dspy_demo.programs.inputs import check_images
from dspy_demo.programs.spec import ProgramSpec
from dspy_demo.ui.chat.render import WireMessage, turn_id_at
from dspy_demo.ui.chat.session import WINDOW, FinishedTurn, LiveTurn, Session, Sessions, history, new_chat_id
from dspy_demo.ui.chat.text import JOINER
from dspy_demo.ui.chat.turn_view import TurnView
from dspy_demo.ui.chat.widgets import (
    COMMENT_MAX_CHARS,
    PUT_BACK,
    RELOAD,
    ChatWidgets,
    composer_update,
    json_object,
    notice_html,
)
from dspy_demo.ui.components import Given, Update, clicked, skip, visitor_of
from dspy_demo.ui.gradio_bridge import delivered
from dspy_demo.ui.sections.backend import LOCAL
from dspy_demo.ui.sections.picks import Picks
from dspy_demo.web.auth import stored_key

RESTARTED = "The app was restarted, or has let go of this page. Reload it to go on; the chat is kept."
LOST = "The connection was lost for a moment and is back. A question that is still here, send again."
_THUMBS = {True: "Like", False: "Dislike", None: None}
#: Before a click is sent: an event whose inputs hold the chat sends its ids alone.
_BY_ID = "(...given) => chatPage.byId(given)"


class Chat:
    """The chat of one page; `mlflow_url` is MLflow's address for whoever sees it, empty where none."""

    def __init__(self, service: ChatService, picks: Picks, *, mlflow_url: Callable[[], str]) -> None:
        self.service, self._picks, self._mlflow_url = service, picks, mlflow_url
        # Of this page alone: guests can push out each other's chats by their number, and not the owner's.
        self.sessions = Sessions(stored_key(service.settings.data_dir))

    def draw(self, specs: Sequence[ProgramSpec], start: LocalTarget) -> None:
        """Make the components, inside the current `gr.Blocks`; ``/chat`` asks what the page starts with."""
        self._start = start
        self.widgets = ChatWidgets(specs, self.service.programs.get(start.program))

    def wire(self, demo: gr.Blocks, new_chat: gr.Button, now: dict[str, Any]) -> None:
        """Make the events, when all of the page is drawn; `now` as in `ui.components.Section`."""
        self._demo, page, picks = demo, self.widgets, self._picks
        shown: dict[str, Any] = now | {"outputs": page.shown, "postprocess": False}
        asked = {page.composer, *picks.inputs, *page.forms.inputs}
        again = {page.chatbot, *asked}
        demo.load(self.load, page.saved, js="() => chatPage.chat()", **shown)
        demo.load(None, None, page.composer, js="() => chatPage.draft()", **now)
        demo.unload(self.stop)
        page.composer.submit(self.send, asked, js=_BY_ID, **shown)
        page.chatbot.example_select(self.example, asked, js=_BY_ID, **shown)
        page.chatbot.retry(self.retry, again, js=_BY_ID, **shown)
        page.chatbot.edit(self.edit, again, js=_BY_ID, **shown)
        # Asked for by the page itself (`follow` in page.js), never by a click. Gradio leaves an event out
        # while the same one runs, unless it is "multiple".
        multiple = {"postprocess": False, "trigger_mode": "multiple"}
        drawn = page.saved.play(self.draw_turn, None, page.chatbot, **now | multiple | {"queue": True})
        drawn.then(self.redraw, None, **shown | multiple)
        page.saved.retry(self.redraw, None, **shown | multiple)
        page.composer.stop(self.stop, **now)
        page.chatbot.undo(self.undo, {page.chatbot, page.composer}, js=_BY_ID, **shown)
        new_chat.click(self.new_chat, None, js="() => chatPage.newChat()", **shown)
        page.earlier.click(self.show_earlier, None, **shown)
        page.notice.click(self.fix, None, **shown | {"outputs": {*page.shown, picks.backend.switch}})
        changed = {page.chatbot, page.composer, *page.forms.outputs}
        gr.on(picks.changes, self.program_changed, picks.inputs, changed, **now)
        if self.service.settings.tracing:
            rated = now | {"outputs": {page.rating, page.notice, page.saved}}
            page.chatbot.like(self.rate, page.chatbot, js=_BY_ID, **rated)
            page.rating.submit(self.comment, page.rating, **rated)
        gr.api(self.answer, api_name="chat", api_description="Ask the program that the app started with.")

    def link_traces(self, event: Any, now: dict[str, Any]) -> None:
        """After `event` MLflow's pages may run: link the answers to their traces."""
        event.then(self.redraw, None, self.widgets.shown, postprocess=False, **now)

    async def load(self, saved: Any, request: gr.Request) -> Update:
        """A page has loaded: show the chat it had before a reload, else the one that its browser had last."""
        visitor, kept = visitor_of(request), json_object(saved) or {}
        chat = str(kept.get("chat", ""))
        before = self.sessions.of_chat(chat, visitor)
        if before is not None and before.live is not None:
            await before.live.ended(timeout_s=1)  # its page notices a moment later that it is gone
        restored = before.turns if before else await asyncio.to_thread(self.sessions.read, kept.get("turns"))
        session = self.sessions.open(str(request.session_hash), visitor, chat, restored)
        return self._shown(session, notice_html(LOST if kept.get("lost") else ""))

    async def send(self, given: Given, request: gr.Request) -> Update:
        text = given[self.widgets.composer]
        return self._act(request, given, lambda session: self._asked(session, given, text))

    async def example(self, event: gr.SelectData, given: Given, request: gr.Request) -> Update:
        return self._act(request, given, lambda session: self._asked(session, given, event.value["text"]))

    async def retry(self, event: gr.RetryData, given: Given, request: gr.Request) -> Update:
        return self._act(request, given, lambda session: self._asked(session, given, None, at=event.index))

    async def edit(self, event: gr.EditData, given: Given, request: gr.Request) -> Update:
        text = str(event.value).replace(JOINER, "")
        return self._act(request, given, lambda session: self._asked(session, given, text, at=event.index))

    async def draw_turn(self, request: gr.Request) -> AsyncIterator[list[WireMessage]]:
        """The running turn as it grows, with the chat as the only output: others Gradio makes anew."""
        session = self._known(request)
        if session is not None and (live := session.live) is not None:
            try:
                async for snapshot in live.snapshots(partial(delivered, self._demo, request)):
                    if snapshot.running:
                        yield session.drawn(self._trace_url)
            finally:
                # The browser went away; the page's unload event comes later where a proxy stands between.
                if live.view.running:
                    await live.stop()
        yield gr.skip()  # what the chat is then, `redraw` says

    async def redraw(self, request: gr.Request) -> Update:
        """The chat as it is now: after a turn, where the page cannot tell, or for links to traces."""
        session = self._known(request)
        if session is None:
            return skip()
        # New chat stopped the turn and has said so; or the next one runs already.
        said = session.set_aside is not None or session.live is not None
        return self._shown(session, None if said else notice_html(self.service.tracer.notice or ""))

    async def program_changed(self, given: Given) -> Update:
        """Another program answers: its examples, its form."""
        try:
            return self.widgets.answering(self._picks.answering(given))
        except DemoError:
            return skip()

    async def undo(self, event: gr.UndoData, given: Given, request: gr.Request) -> Update:
        """Take a turn back, its question into the composer where nothing else is written there."""

        def take_back(session: Session) -> Update:
            turn = self._turn(session, given, event.index)
            session.set_aside = session.chat, session.turns
            session.turns = session.before(turn)
            draft = None if given[self.widgets.composer] else turn.user
            return self._shown(session, notice_html("The last question was taken back.", PUT_BACK), draft)

        return self._act(request, given, take_back)

    async def stop(self, request: gr.Request) -> None:
        """Stop the running turn, also where its page was closed."""
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
        local = {self._picks.backend.switch: LOCAL} if clicked(event) == "use-local" else {}
        return local | {self.widgets.notice: ""}

    async def rate(self, event: gr.LikeData, chat: list[WireMessage], request: gr.Request) -> Update:
        """A thumb was clicked; the same one again takes it back."""
        rated, page = event.liked if isinstance(event.liked, bool) else None, self.widgets
        changes: dict[str, Any] = {"rated": rated} if rated is not None else {"rated": None, "comment": ""}
        try:
            session, view = self._rated(request, turn_id_at(chat, event.index), **changes)
        except DemoError as error:
            return {page.notice: notice_html(error.public_message, wrong=True)}
        session.commented = view.turn_id if rated is not None else ""
        wanted = "What was good about it? (optional)" if rated else "What went wrong? (optional)"
        return {
            page.saved: self.sessions.saved(session),
            page.notice: "" if rated is not None else notice_html("Rating removed."),
            page.rating: gr.update(visible=rated is not None, value=view.comment, placeholder=wanted),
        }

    async def comment(self, text: str, request: gr.Request) -> Update:
        """Words for the thumb that was clicked last."""
        known, page = self._known(request), self.widgets
        comment = (text or "").strip()[:COMMENT_MAX_CHARS]
        try:
            session, _ = self._rated(request, known.commented if known else "", comment=comment)
        except DemoError as error:
            return {page.notice: notice_html(error.public_message, wrong=True)}
        thanks = notice_html("Thank you. The rating is with the answer's trace in MLflow.")
        saved = self.sessions.saved(session)
        return {page.saved: saved, page.notice: thanks, page.rating: gr.update(visible=False)}

    def _rated(self, request: gr.Request, turn_id: str, **changes: Any) -> tuple[Session, TurnView]:
        """Keep a rating with its turn and in MLflow; `InvalidInput` where it cannot be rated."""
        session = self._known(request)
        view = session.find(turn_id) if session else None
        if session is None or view is None:
            raise InvalidInput("Can't rate: this answer is no longer part of the chat.")
        if view.trace_id is None:
            raise InvalidInput("Can't rate: this answer has no trace.")
        if self.service.limits is not None:
            self.service.limits.count_rating(session.visitor)
        view = replace(view, **changes)
        new, user = FinishedTurn(view), session.visitor.name
        session.turns = tuple(new if turn.view.turn_id == turn_id else turn for turn in session.turns)
        self.service.tracer.feedback(str(view.trace_id), view.rated, view.comment or None, user=user)
        return session, view

    def _act(self, request: gr.Request, given: Given, action: Callable[[Session], Update]) -> Update:
        """What `action` does with the session, or the notice why it cannot."""
        session = self._known(request)
        if session is None:
            return {self.widgets.notice: notice_html(RESTARTED, RELOAD, wrong=True)}
        if session.live is not None:
            return {self.widgets.notice: notice_html("Stop first, or wait for the answer.", wrong=True)}
        try:
            return {self.widgets.rating: gr.update(visible=False)} | action(session)
        except DemoError as error:
            # The page may show an edited question as if it had been asked.
            ways_out = self._picks.ways_out(given, error)
            return self._shown(session, notice_html(error.public_message, *ways_out, wrong=True))

    def _asked(self, session: Session, given: Given, text: str | None, *, at: Any = None) -> Update:
        """Begin a turn, and show what was asked at once; `draw_turn` shows what becomes of it.

        With `at`, a message of a turn, that turn is asked again, in its own words where `text` is None: its
        other inputs are kept, and what follows it is gone.
        """
        old = None if at is None else self._turn(session, given, at)
        turns = session.before(old) if old else session.turns
        text = old.user if old and text is None else text or ""
        if not text.strip():
            raise InvalidInput("Write a question first.")
        target, spec = self._picks.target(given)
        fits = old and old.inputs and set(old.inputs) <= {one.name for one in spec.form_fields}
        values = old.inputs if old and fits else self.widgets.forms.values(spec, given)
        inputs = {**values, spec.chat_field: text}
        pictures = check_images(spec, inputs, guest=session.visitor.role == "guest")
        typed = sum(len(str(value)) for value in inputs.values()) - pictures
        room = self.service.input_max_chars(session.visitor) - typed
        earlier = history(turns, room) if spec.history_field else ()
        request = TurnRequest(target, inputs, earlier, session.session_id, visitor=session.visitor)
        self.service.check(request)
        live = LiveTurn(self.service, request, spec, on_end=session.end)
        session.turns, session.set_aside, session.live = turns, None, live
        return self._shown(session, "", "" if text == given[self.widgets.composer] else None)

    def _turn(self, session: Session, given: Given, message: Any) -> TurnView:
        """The turn of the message that was clicked, which the session may not hold any more."""
        turn = session.find(turn_id_at(given[self.widgets.chatbot], message))
        if turn is None:
            raise InvalidInput("That answer is no longer part of this chat.")
        return turn

    def _known(self, request: gr.Request) -> Session | None:
        return self.sessions.get(str(request.session_hash), visitor_of(request))

    def _shown(self, session: Session, notice: str | None = None, draft: str | None = None) -> Update:
        running, page = session.live is not None, self.widgets
        composer = composer_update(running=running)
        thumbs = [_THUMBS[turn.view.rated] for turn in session.shown]
        update: Update = {
            page.chatbot: gr.update(value=session.drawn(self._trace_url), feedback_value=thumbs),
            page.composer: composer if draft is None else {**composer, "value": draft},
            page.earlier: gr.update(visible=len(session.shown) < len(session.turns)),
            page.saved: self.sessions.saved(session),
        }
        return update if notice is None else update | {page.notice: notice}

    def _trace_url(self, view: TurnView) -> str:
        url = self._mlflow_url()
        return (self.service.tracer.link(view.trace_id, url) if url and view.trace_id else None) or ""

    async def answer(
        self, request: gr.Request, message: str, history: list[dict[str, Any]] | None = None
    ) -> str:
        """Ask a question. Each call stands alone: earlier messages are given, not remembered.

        Args:
            message: The question.
            history: Earlier messages, oldest first, each with "role" (user or assistant) and "content".
        """
        spec = self.service.programs.get(self._start.program)
        try:
            earlier = tuple(Message(item["role"], item["content"]) for item in history or [])
            if not all(one.role in {"user", "assistant"} and isinstance(one.text, str) for one in earlier):
                raise TypeError
        except (TypeError, LookupError):
            wanted = 'Each message of the history needs a "role" (user or assistant) and a "content".'
            raise gr.Error(wanted, print_exception=False) from None
        inputs, visitor = {spec.chat_field: message}, visitor_of(request)
        ended = await self.service.answer(TurnRequest(self._start, inputs, earlier, visitor=visitor))
        if isinstance(ended, TurnFailed):
            raise gr.Error(f"{ended.public_message} (Error {ended.error_id})", print_exception=False)
        return TurnView(message, answer_field=spec.answer_field, answers=ended.outputs).answer_text
