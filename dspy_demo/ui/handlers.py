"""What happens on an event of the page. No drawing of components, no wiring: see `layout` and `build`."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import html
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import gradio as gr
import orjson
from gradio.components import Component

from dspy_demo.chat import ChatService
from dspy_demo.errors import DemoError, InvalidInput, NotFound
from dspy_demo.events import LocalTarget, ServedTarget, Status, TurnRequest, Visitor
from dspy_demo.programs.images import check_images, image_chars, image_fields
from dspy_demo.programs.spec import ProgramSpec
from dspy_demo.settings import Settings
from dspy_demo.ui.asker import visitor_of
from dspy_demo.ui.cadence import Cadence
from dspy_demo.ui.conversation import Conversation
from dspy_demo.ui.delivery import delivered
from dspy_demo.ui.layout import Page
from dspy_demo.ui.live import LiveTurn
from dspy_demo.ui.markdown_safety import typed_text
from dspy_demo.ui.render import WireMessage, messages
from dspy_demo.ui.saved import from_json, to_json
from dspy_demo.ui.served_program import program_behind
from dspy_demo.ui.server_panel import NOT_SERVED, SERVED, served_choice
from dspy_demo.ui.store import ConversationStore, Tab
from dspy_demo.ui.turn_view import TurnView
from dspy_demo.ui.workbench import Workbench

#: How long a reload waits for the tab it replaces to let go of its turn.
RELOAD_WAIT_S = 1.0
RESTARTED = "The app was restarted, or has let go of this page. Reload it to go on; the chat is kept."

FORGOTTEN = "The chat is longer than the limit, so its earliest turns are not sent along."

Update = dict[Component, Any]


@dataclass(frozen=True, slots=True)
class ChatHandlers:
    """The chat: sending, stopping, and going back.

    A turn is three events: it is accepted (`send`, `example`, `retry`, `edit`) and runs from then on;
    `draw` shows it grow; `settle` frees the composer. Nothing here trusts the page: whether a turn runs
    is known from the store.
    """

    service: ChatService
    settings: Settings
    store: ConversationStore
    page: Page
    cadence: Cadence
    workbench: Workbench | None = None
    #: One at a time: threads that compute take turns with the event loop, each of them.
    restoring: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(1))

    async def load(self, saved: Any, request: gr.Request) -> Update:
        """A page has loaded: show the visitor's chat, also what was streaming when it was reloaded."""
        visitor_id, turns = _text(saved, "visitor"), _text(saved, "turns")
        restored = Conversation()
        if self.store.would_restore(visitor_id):
            async with self.restoring:
                restored = await asyncio.to_thread(from_json, turns)
        tab = self.store.open(
            str(request.session_hash),
            visitor_id,
            restored,
            saved_chars=len(turns),
            asker=visitor_of(request),
        )
        with contextlib.suppress(TimeoutError):
            # The tab that this one replaces notices a moment later. A second tab may go on running.
            await asyncio.wait_for(tab.visitor.idle.wait(), RELOAD_WAIT_S)
        self._link_traces(tab)
        return self._shown(tab) | self._saved(tab)

    async def unload(self, request: gr.Request) -> None:
        """A tab was closed: end its turn, also while the model is silent."""
        tab = self.store.close(str(request.session_hash), visitor_of(request))
        if tab is not None and tab.live is not None:
            await tab.live.stop()

    async def send(self, given: dict[Component, Any], request: gr.Request) -> Update:
        """Enter, or the send button."""
        return self._asked(request, given, given[self.page.composer] or "", clear=True)

    async def example(self, event: gr.SelectData, given: dict[Component, Any], request: gr.Request) -> Update:
        """One of the questions on the empty page."""
        return self._asked(request, given, event.value["text"])

    async def retry(self, given: dict[Component, Any], request: gr.Request) -> Update:
        """Ask the last question again, of whatever model is picked now."""
        tab = self._free_tab(request)
        if tab is None or not tab.visitor.conversation.turns:
            return _nothing()
        return self._asked_again(request, given, tab, len(tab.visitor.conversation.turns) - 1)

    async def edit(self, event: gr.EditData, given: dict[Component, Any], request: gr.Request) -> Update:
        """Ask an edited question; what came after it is gone."""
        tab = self._free_tab(request)
        if tab is None or not tab.visitor.conversation.turns:
            return _nothing()
        index = event.index if isinstance(event.index, int) else event.index[0]
        turn = tab.visitor.conversation.turn_at(index, self._first(tab))
        return self._asked_again(request, given, tab, turn, typed_text(str(event.value)))

    async def draw(self, request: gr.Request) -> AsyncIterator[list[WireMessage | orjson.Fragment]]:
        """The running turn as it grows, below what was there and stays as it is.

        Only the chat is an output: of any other Gradio makes a new component with every update (6.31).
        """
        tab = self._tab(request)
        live = tab.live if tab else None
        if tab is None:
            yield gr.skip()
            return
        if live is not None:
            first = self._first(tab, live.view)
            before = tab.visitor.conversation.frozen(first)
            try:
                async for snapshot in live.snapshots(self.cadence, partial(delivered, request)):
                    if snapshot.running:
                        yield [*before, *messages(snapshot)]
            finally:
                # The browser went away; see `unload`, which comes later where a proxy stands between.
                if live.view.running:
                    await live.stop()
        conversation, first = tab.visitor.conversation, self._first(tab)
        last = max(first, len(conversation.turns) - 1)
        yield [*conversation.before(last).frozen(first), *conversation.drawn(last)]

    async def settle(self, request: gr.Request) -> Update:
        """After drawing: the composer is free again, and the browser keeps a copy."""
        tab = self._tab(request)
        if tab is None or tab.live is not None:
            return _nothing()
        rated = gr.update(feedback_value=self._ratings(tab))
        notice = self._notice(self.service.tracer.notice or "")
        return self._controls(tab) | self._saved(tab) | notice | {self.page.chatbot: rated}

    async def link_traces(self, request: gr.Request) -> Update:
        """MLflow's pages run now, so that the footers can link to them."""
        tab = self._free_tab(request)
        if tab is None:
            return _nothing()
        self._link_traces(tab)
        return self._shown(tab)

    async def undo(self, request: gr.Request) -> Update:
        """Take the last turn back, its question into the composer."""
        tab = self._free_tab(request)
        if tab is None or not tab.visitor.conversation.turns:
            return _nothing()
        conversation = tab.visitor.conversation
        last = conversation.turns[-1].view
        tab.visitor.conversation = conversation.before(len(conversation.turns) - 1)
        return self._shown(tab) | self._saved(tab) | {self.page.composer: gr.update(value=last.user)}

    async def stop(self, request: gr.Request) -> None:
        """Stop the running turn; its own stream of updates then draws the end."""
        tab = self._tab(request)
        if tab is not None and tab.live is not None:
            await tab.live.stop()

    async def new_chat(self, request: gr.Request) -> Update:
        """Start over. A running turn is stopped first."""
        tab = self._tab(request)
        if tab is None:
            return self._notice(RESTARTED)
        if tab.live is not None:
            await tab.live.stop()
            await tab.visitor.idle.wait()
        tab.visitor.start_over()
        tab.window = self.settings.ui_window_messages
        return self._shown(tab) | self._saved(tab) | self._notice("")

    async def show_earlier(self, request: gr.Request) -> Update:
        """Show one more window of older messages."""
        tab = self._free_tab(request)
        if tab is None:
            return _nothing()
        tab.window += self.settings.ui_window_messages
        return self._shown(tab)

    # Asking

    def _asked(
        self,
        request: gr.Request,
        given: Mapping[Component, Any],
        text: str,
        form: Mapping[str, Any] | None = None,
        *,
        clear: bool = False,
    ) -> Update:
        """Begin a turn, and show what was asked at once; `draw` shows what becomes of it."""
        tab = self._tab(request)
        if tab is None:
            return self._notice(RESTARTED)
        if tab.live is not None:
            return _nothing()
        try:
            turn, view = self._request(tab, visitor_of(request), given, text, form)
        except DemoError as error:
            return self._shown(tab) | self._notice(error.public_message)
        live = LiveTurn(self.service.turn(turn), view, on_end=lambda last: tab.end(self._linked(last)))
        tab.begin(live)
        live.start()
        first = self._first(tab, view)
        return self._notice("") | {
            self.page.chatbot: gr.update(
                value=tab.visitor.conversation.drawn(first) + messages(view),
                feedback_value=tab.visitor.conversation.ratings(first),
            ),
            self.page.composer: self._composer(running=True, clear=clear),
            self.page.earlier: gr.update(visible=first > 0),
        }

    def _asked_again(
        self,
        request: gr.Request,
        given: Mapping[Component, Any],
        tab: Tab,
        index: int,
        text: str | None = None,
    ) -> Update:
        conversation = tab.visitor.conversation
        old = conversation.turns[index].view
        tab.visitor.conversation = conversation.before(index)
        update = self._asked(request, given, old.user if text is None else text, old.form)
        if tab.live is None:
            # It was not accepted, so nothing is lost.
            tab.visitor.conversation = conversation
            return update | self._shown(tab)
        return update

    def _request(
        self,
        tab: Tab,
        visitor: Visitor,
        given: Mapping[Component, Any],
        text: str,
        form: Mapping[str, Any] | None,
    ) -> tuple[TurnRequest, TurnView]:
        if not text.strip():
            raise InvalidInput("Write a question first.")
        target, spec = self._target(given)
        drawn_form = self.page.form_for(spec)
        known = {field.name for field in spec.form_fields}
        values = dict(form) if form and set(form) <= known else drawn_form.values(given)
        inputs = {**values, spec.chat_field: text}
        check_images(spec, inputs, guest=visitor.role == "guest")
        given_chars = sum(len(str(value)) for value in inputs.values()) - image_chars(
            inputs, image_fields(spec)
        )
        room = self.service.input_max_chars(visitor) - given_chars
        history = tab.visitor.conversation.history(room) if spec.history_field else ()
        request = TurnRequest(target, inputs, history, tab.visitor.session_id, visitor=visitor)
        self.service.check(request)
        view = TurnView.start(
            text,
            now_s=time.monotonic(),
            turn_id=request.turn_id,
            inputs=drawn_form.pairs(values),
            form=values,
            expected=spec.outputs,
            answer_field=spec.answer_field,
            guest=visitor.role == "guest",
        )
        if spec.history_field and len(history) < 2 * tab.visitor.conversation.answered():
            view = view.apply(Status(FORGOTTEN), time.monotonic())
        return request, view

    def _target(self, given: Mapping[Component, Any]) -> tuple[LocalTarget | ServedTarget, ProgramSpec]:
        """Where the turn runs, and which program answers there."""
        sidebar = self.page.sidebar
        if given[sidebar.backend] != SERVED:
            spec = self.service.programs.get(given[sidebar.program])
            return LocalTarget(spec.name, sidebar.choice(given)), spec
        if self.workbench is None:
            raise NotFound(NOT_SERVED)
        choice = served_choice(self.workbench.servers, given[sidebar.server.connected])
        return choice.target, program_behind(choice, self.service.programs)

    # Drawing

    def _tab(self, request: gr.Request) -> Tab | None:
        """The tab of an event. A session's hash is no proof: its visitor must be the one who opened it."""
        return self.store.tab(str(request.session_hash), visitor_of(request))

    def _free_tab(self, request: gr.Request) -> Tab | None:
        tab = self._tab(request)
        return None if tab is None or tab.live is not None else tab

    def _first(self, tab: Tab, live: TurnView | None = None) -> int:
        """The first turn on the page; a running one needs room too."""
        room = len(messages(live)) if live else 0
        return tab.visitor.conversation.window(tab.window - room)

    def _shown(self, tab: Tab) -> Update:
        drawn = tab.visitor.conversation.drawn(self._first(tab))
        chat = gr.update(value=drawn, feedback_value=self._ratings(tab))
        return {self.page.chatbot: chat, **self._controls(tab)}

    def _ratings(self, tab: Tab) -> list[str | None]:
        return tab.visitor.conversation.ratings(self._first(tab))

    def _linked(self, view: TurnView) -> TurnView:
        return dataclasses.replace(view, trace_url=self._trace_url(view))

    def _link_traces(self, tab: Tab) -> None:
        tab.visitor.conversation = tab.visitor.conversation.linked(self._trace_url)

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
        data = {"visitor": tab.visitor.id, "turns": to_json(tab.visitor.conversation)}
        return {self.page.saved: data}

    def _notice(self, text: str) -> Update:
        return {self.page.notice: html.escape(text)}

    @staticmethod
    def _composer(*, running: bool, clear: bool = False) -> Any:
        update = gr.update(submit_btn=False if running else "Send", stop_btn="Stop" if running else False)
        return {**update, "value": ""} if clear else update


def _text(saved: Any, key: str) -> str:
    text = saved.get(key) if isinstance(saved, dict) else None
    return text if isinstance(text, str) else ""


def _nothing() -> Update:
    """No output changes."""
    skip: Update = gr.skip()
    return skip
