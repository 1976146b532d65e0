"""What happens on an event of the page. No drawing of components, no wiring: see `layout` and `build`."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import gradio as gr
import orjson
from gradio.components import Component

from dspy_demo.chat import ChatService
from dspy_demo.errors import DemoError, InvalidInput
from dspy_demo.settings import Settings
from dspy_demo.ui.actions import said
from dspy_demo.ui.asker import visitor_of
from dspy_demo.ui.chat.cadence import Cadence
from dspy_demo.ui.chat.conversation import Conversation
from dspy_demo.ui.chat.delivery import delivered
from dspy_demo.ui.chat.live import LiveTurn
from dspy_demo.ui.chat.markdown_safety import typed_text
from dspy_demo.ui.chat.notices import (
    PUT_BACK,
    RELOAD,
    notice_html,
)
from dspy_demo.ui.chat.questions import Questions
from dspy_demo.ui.chat.render import WireMessage, messages, turn_id_at
from dspy_demo.ui.chat.saved import from_json, saved_copy
from dspy_demo.ui.chat.tabs import Tab, Tabs
from dspy_demo.ui.chat.turn_view import TurnView
from dspy_demo.ui.layout import Page
from dspy_demo.ui.server_panel import LOCAL
from dspy_demo.ui.workbench import Workbench

#: How long a reload waits for the page it replaces to let go of its turn.
RELOAD_WAIT_S = 1.0
RESTARTED = "The app was restarted, or has let go of this page. Reload it to go on; the chat is kept."
STOP_FIRST = "Stop first, or wait for the answer."
NOT_HERE = "That answer is no longer part of this chat."
NEW_CHAT = "New chat."
TAKEN_BACK = "The last question was taken back."
LOST = "The connection was lost for a moment and is back."
LOST_DRAFT = f"{LOST} Your question is still here: send it again."

Update = dict[Component, Any]


@dataclass(frozen=True, slots=True)
class ChatHandlers:
    """The chat: sending, stopping, and going back.

    A turn is three events: it is accepted (`send`, `example`, `retry`, `edit`) and runs from then on;
    `draw` shows it grow; `settle` frees the composer. All three come also where a question was refused.
    Nothing here trusts the page: whether a turn runs is known from the tab.
    """

    service: ChatService
    settings: Settings
    tabs: Tabs
    page: Page
    cadence: Cadence
    workbench: Workbench | None = None
    #: One at a time: threads that compute take turns with the event loop, each of them.
    restoring: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(1))

    @property
    def questions(self) -> Questions:
        return Questions(self.service, self.page, self.workbench)

    async def load(self, saved: Any, request: gr.Request) -> Update:
        """A page has loaded: show the chat it had before a reload, else the one that its browser had last."""
        visitor, chat, turns = visitor_of(request), _text(saved, "chat"), _text(saved, "turns")
        before = self.tabs.before_reload(chat, visitor)
        if before is not None:
            if before.live is not None:
                with contextlib.suppress(TimeoutError):  # its page notices a moment later that it is gone
                    await asyncio.wait_for(before.live.ended(), RELOAD_WAIT_S)
            tab = self.tabs.reopen(str(request.session_hash), before)
        else:
            async with self.restoring:
                restored = await asyncio.to_thread(from_json, turns)
            tab = self.tabs.open(str(request.session_hash), visitor, chat, restored, len(turns))
        self._link_traces(tab)
        lost = {"chat": LOST, "draft": LOST_DRAFT}.get(_text(saved, "lost"), "")
        return self._shown(tab) | self._saved(tab) | self._notice(lost)

    async def unload(self, request: gr.Request) -> None:
        """A page was closed or reloaded: end its turn, also while the model is silent."""
        tab = self._known(request)
        if tab is not None:
            tab.closed = True
            if tab.live is not None:
                await tab.live.stop()

    async def send(self, given: dict[Component, Any], request: gr.Request) -> Update:
        """Enter, or the send button."""
        text = given[self.page.composer] or ""
        return self._act(request, given, lambda tab: self._asked(tab, given, text, clear=True))

    async def example(self, event: gr.SelectData, given: dict[Component, Any], request: gr.Request) -> Update:
        """One of the questions on the empty page."""
        return self._act(request, given, lambda tab: self._asked(tab, given, event.value["text"]))

    async def retry(self, event: gr.RetryData, given: dict[Component, Any], request: gr.Request) -> Update:
        """Ask a question again, of whatever model is picked now; what came after it is gone."""
        return self._act(request, given, lambda tab: self._asked_again(tab, given, event.index))

    async def edit(self, event: gr.EditData, given: dict[Component, Any], request: gr.Request) -> Update:
        """Ask an edited question; what came after it is gone."""
        text = typed_text(str(event.value))
        return self._act(request, given, lambda tab: self._asked_again(tab, given, event.index, text))

    async def draw(self, request: gr.Request) -> AsyncIterator[list[WireMessage | orjson.Fragment]]:
        """The accepted turn as it grows, below what was there and stays as it is.

        Only the chat is an output: of any other Gradio makes a new component with every update (6.31).
        """
        tab = self._known(request)
        live = tab.undrawn if tab else None
        if tab is None or live is None:
            yield gr.skip()
            return
        tab.undrawn = None
        first = self._first(tab, live.view)
        before = tab.conversation.frozen(first)
        try:
            async for snapshot in live.snapshots(self.cadence, partial(delivered, request)):
                if snapshot.running:
                    yield [*before, *messages(snapshot)]
        finally:
            # The browser went away; see `unload`, which comes later where a proxy stands between.
            if live.view.running:
                await live.stop()
        conversation, first = tab.conversation, self._first(tab)
        last = max(first, len(conversation.turns) - 1)
        yield [*conversation.before(last).frozen(first), *conversation.drawn(last)]

    async def settle(self, request: gr.Request) -> Update:
        """After drawing: the composer is free again, and the browser keeps a copy."""
        tab = self._known(request)
        if tab is None or tab.live is not None or not tab.unsettled:
            return _nothing()
        tab.unsettled = False
        if tab.set_aside is not None:
            # New chat stopped the turn and has said so; the end of the drawing may have come after it.
            return self._shown(tab)
        rated = gr.update(feedback_value=self._ratings(tab))
        notice = self._notice(self.service.tracer.notice or "")
        return self._controls(tab) | self._saved(tab) | notice | {self.page.chatbot: rated}

    async def link_traces(self, request: gr.Request) -> Update:
        """MLflow's pages run now, so that the footers can link to them."""
        tab = self._known(request)
        if tab is None or tab.live is not None:
            return _nothing()
        self._link_traces(tab)
        return self._shown(tab)

    async def undo(self, event: gr.UndoData, given: dict[Component, Any], request: gr.Request) -> Update:
        """Take a turn back, its question into the composer where nothing else is written there."""

        def take_back(tab: Tab) -> Update:
            index = self._turn(tab, given, event.index)
            question = tab.conversation.turns[index].view.user
            tab.go_back(index)
            draft = given[self.page.composer]
            composer = self._composer(running=False, value=None if draft else question)
            return self._changed(tab, notice_html(TAKEN_BACK, PUT_BACK)) | {self.page.composer: composer}

        return self._act(request, given, take_back)

    async def stop(self, request: gr.Request) -> None:
        """Stop the running turn; its own stream of updates then draws the end."""
        tab = self._known(request)
        if tab is not None and tab.live is not None:
            await tab.live.stop()

    async def new_chat(self, request: gr.Request) -> Update:
        """Start over. A running turn is stopped first."""
        await self.stop(request)

        def start_over(tab: Tab) -> Update:
            tab.start_over()
            tab.window = self.settings.ui_window_messages
            return self._changed(tab, notice_html(NEW_CHAT, PUT_BACK) if tab.set_aside else "")

        return self._act(request, {}, start_over)

    async def show_earlier(self, request: gr.Request) -> Update:
        """Show one more window of older messages."""

        def show(tab: Tab) -> Update:
            tab.window += self.settings.ui_window_messages
            return self._shown(tab)

        return self._act(request, {}, show)

    async def fix(self, event: gr.EventData, request: gr.Request) -> Update:
        """The button of a notice that this side can do. A model server is restarted by its own panel."""

        def put_back(tab: Tab) -> Update:
            tab.restore()
            return self._changed(tab, "")

        match said(event).get("do"):
            case "use-local":
                return {self.page.sidebar.backend: LOCAL, self.page.notice: ""}
            case "put-back":
                return self._act(request, {}, put_back)
            case _:
                return {self.page.notice: ""}

    # Asking

    def _act(
        self, request: gr.Request, given: Mapping[Component, Any], action: Callable[[Tab], Update]
    ) -> Update:
        """What `action` does with the tab, or the notice why it cannot: it stays until the next edit."""
        tab = self._known(request)
        if tab is None:
            return {self.page.notice: notice_html(RESTARTED, RELOAD, wrong=True)}
        if tab.live is not None:
            return {self.page.notice: notice_html(STOP_FIRST, wrong=True)}
        try:
            return action(tab)
        except DemoError as error:
            # The page may show an edited question as if it had been asked.
            notice = notice_html(error.public_message, *self.questions.ways_out(given, error), wrong=True)
            return self._shown(tab) | {self.page.notice: notice}

    def _asked(
        self,
        tab: Tab,
        given: Mapping[Component, Any],
        text: str,
        *,
        clear: bool = False,
        form: Mapping[str, Any] | None = None,
        after: Conversation | None = None,
    ) -> Update:
        """Begin a turn, and show what was asked at once; `draw` shows what becomes of it.

        Args:
            form: The other inputs of a question that is asked again.
            after: The conversation that it goes on from; the tab's own where none is given.
        """
        conversation = tab.conversation if after is None else after
        turn, view = self.questions.of(tab, conversation, given, text, form)
        live = LiveTurn(self.service.turn(turn), view, on_end=lambda last: tab.end(self._linked(last)))
        tab.begin(live, conversation)
        live.start()
        first = self._first(tab, view)
        return {
            self.page.notice: "",
            self.page.rating.row: gr.update(visible=False),
            self.page.chatbot: gr.update(
                value=conversation.drawn(first) + messages(view), feedback_value=conversation.ratings(first)
            ),
            self.page.composer: self._composer(running=True, value="" if clear else None),
            self.page.earlier: gr.update(visible=first > 0),
        }

    def _asked_again(
        self, tab: Tab, given: Mapping[Component, Any], message: Any, text: str | None = None
    ) -> Update:
        index = self._turn(tab, given, message)
        old = tab.conversation.turns[index].view
        asked = old.user if text is None else text
        return self._asked(tab, given, asked, form=old.form, after=tab.conversation.before(index))

    def _turn(self, tab: Tab, given: Mapping[Component, Any], message: Any) -> int:
        """The turn of the message that was clicked.

        Raises:
            InvalidInput: The page shows what the tab does not hold any more.
        """
        index = tab.conversation.index_of(turn_id_at(given[self.page.chatbot], message))
        if index is None:
            raise InvalidInput(NOT_HERE)
        return index

    # Drawing

    def _known(self, request: gr.Request) -> Tab | None:
        """The tab of an event; None where there is none, or another visitor opened it."""
        return self.tabs.get(str(request.session_hash), visitor_of(request))

    def _first(self, tab: Tab, live: TurnView | None = None) -> int:
        """The first turn on the page; a running one needs room too."""
        room = len(messages(live)) if live else 0
        return tab.conversation.window(tab.window - room)

    def _shown(self, tab: Tab) -> Update:
        drawn = tab.conversation.drawn(self._first(tab))
        chat = gr.update(value=drawn, feedback_value=self._ratings(tab))
        return {self.page.chatbot: chat, **self._controls(tab)}

    def _changed(self, tab: Tab, notice: str) -> Update:
        """The page after the chat was changed otherwise than by a question."""
        rating = {self.page.rating.row: gr.update(visible=False)}
        return self._shown(tab) | self._saved(tab) | rating | {self.page.notice: notice}

    def _ratings(self, tab: Tab) -> list[str | None]:
        return tab.conversation.ratings(self._first(tab))

    def _linked(self, view: TurnView) -> TurnView:
        return dataclasses.replace(view, trace_url=self._trace_url(view))

    def _link_traces(self, tab: Tab) -> None:
        tab.conversation = tab.conversation.linked(self._trace_url)

    def _trace_url(self, view: TurnView) -> str:
        """Where the turn's trace is shown now; not for a visitor from elsewhere, who cannot reach MLflow."""
        url = self.workbench.pages.url if self.workbench and self.page.owner else ""
        return (self.service.tracer.link(view.trace_id, url) or "") if url and view.trace_id else ""

    def _controls(self, tab: Tab) -> Update:
        return {
            self.page.composer: self._composer(running=False),
            self.page.earlier: gr.update(visible=self._first(tab) > 0),
        }

    def _saved(self, tab: Tab) -> Update:
        return {self.page.saved: saved_copy(tab)}

    def _notice(self, text: str) -> Update:
        return {self.page.notice: notice_html(text)}

    @staticmethod
    def _composer(*, running: bool, value: str | None = None) -> Any:
        update = gr.update(submit_btn=False if running else "Send", stop_btn="Stop" if running else False)
        return update if value is None else {**update, "value": value}


def _text(saved: Any, key: str) -> str:
    text = saved.get(key) if isinstance(saved, dict) else None
    return text if isinstance(text, str) else ""


def _nothing() -> Update:
    skip: Update = gr.skip()
    return skip
