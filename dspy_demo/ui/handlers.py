"""What happens on an event of the page. No drawing of components, no wiring: see `layout` and `build`."""

from __future__ import annotations

import asyncio
import contextlib
import html
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component

from dspy_demo.chat import ChatService
from dspy_demo.errors import DemoError, InvalidInput, NotFound
from dspy_demo.events import LocalTarget, TurnRequest
from dspy_demo.settings import Settings
from dspy_demo.ui.conversation import from_json, to_json
from dspy_demo.ui.layout import Page, example_rows, placeholder
from dspy_demo.ui.live import LiveTurn
from dspy_demo.ui.markdown_safety import typed_text
from dspy_demo.ui.render import messages
from dspy_demo.ui.sidebar import OTHER, SERVED
from dspy_demo.ui.store import ConversationStore, Tab
from dspy_demo.ui.turn_view import TurnView

#: How long a reload waits for the tab it replaces to let go of its turn.
RELOAD_WAIT_S = 1.0
RESTARTED = "The app was restarted. Reload the page to go on; the chat is kept."

Update = dict[Component, Any]


@dataclass(frozen=True, slots=True)
class ChatHandlers:
    """The chat: sending, stopping, and going back.

    Every stream of updates has the same outputs, and only what changed is in an update. Nothing here
    trusts the page: whether a turn runs is known from the store.
    """

    service: ChatService
    settings: Settings
    store: ConversationStore
    page: Page

    async def load(self, saved: Any, request: gr.Request) -> Update:
        """A page has loaded: show the visitor's chat, also what was streaming when it was reloaded."""
        kept = saved if isinstance(saved, dict) else {}
        tab = self.store.open(
            str(request.session_hash), str(kept.get("visitor", "")), from_json(kept.get("turns"))
        )
        with contextlib.suppress(TimeoutError):
            # The tab that this one replaces notices a moment later. A second tab may go on running.
            await asyncio.wait_for(tab.visitor.idle.wait(), RELOAD_WAIT_S)
        return self._shown(tab) | self._saved(tab)

    async def unload(self, request: gr.Request) -> None:
        """A tab was closed: end its turn, also while the model is silent."""
        tab = self.store.close(str(request.session_hash))
        if tab is not None and tab.live is not None:
            await tab.live.stop()

    async def send(self, given: dict[Component, Any], request: gr.Request) -> AsyncIterator[Update]:
        """Enter, or the send button."""
        tab = self.store.tab(str(request.session_hash))
        if tab is None:
            yield self._notice(RESTARTED)
        elif tab.live is None:
            async for update in self._ask(tab, given, given[self.page.composer] or "", clear=True):
                yield update
        else:
            yield {}

    async def example(
        self, event: gr.SelectData, given: dict[Component, Any], request: gr.Request
    ) -> AsyncIterator[Update]:
        """One of the questions on the empty page."""
        tab = self.store.tab(str(request.session_hash))
        if tab is None:
            yield self._notice(RESTARTED)
        elif tab.live is None:
            async for update in self._ask(tab, given, event.value["text"]):
                yield update

    async def retry(self, given: dict[Component, Any], request: gr.Request) -> AsyncIterator[Update]:
        """Ask the last question again, of whatever model is picked now."""
        tab = self._free_tab(request)
        if tab is None or not tab.visitor.conversation.turns:
            yield {}
            return
        async for update in self._ask_again(tab, given, len(tab.visitor.conversation.turns) - 1):
            yield update

    async def edit(
        self, event: gr.EditData, given: dict[Component, Any], request: gr.Request
    ) -> AsyncIterator[Update]:
        """Ask an edited question; what came after it is gone."""
        tab = self._free_tab(request)
        if tab is None:
            yield {}
            return
        index = event.index if isinstance(event.index, int) else event.index[0]
        turn = tab.visitor.conversation.turn_at(index, self._first(tab))
        async for update in self._ask_again(tab, given, turn, typed_text(str(event.value))):
            yield update

    async def undo(self, request: gr.Request) -> Update:
        """Take the last turn back, its question into the composer."""
        tab = self._free_tab(request)
        if tab is None or not tab.visitor.conversation.turns:
            return {}
        conversation = tab.visitor.conversation
        last = conversation.turns[-1].view
        tab.visitor.conversation = conversation.before(len(conversation.turns) - 1)
        return self._shown(tab) | self._saved(tab) | {self.page.composer: gr.update(value=last.user)}

    async def stop(self, request: gr.Request) -> None:
        """Stop the running turn; its own stream of updates then draws the end."""
        tab = self.store.tab(str(request.session_hash))
        if tab is not None and tab.live is not None:
            await tab.live.stop()

    async def new_chat(self, request: gr.Request) -> Update:
        """Start over. A running turn is stopped first."""
        tab = self.store.tab(str(request.session_hash))
        if tab is None:
            return self._notice(RESTARTED)
        if tab.live is not None:
            await tab.live.stop()
            await tab.visitor.idle.wait()
        tab.visitor.conversation = tab.visitor.conversation.before(0)
        tab.window = self.settings.ui_window_messages
        return self._shown(tab) | self._saved(tab) | self._notice("")

    async def show_earlier(self, request: gr.Request) -> Update:
        """Show one more window of older messages."""
        tab = self._free_tab(request)
        if tab is None:
            return {}
        tab.window += self.settings.ui_window_messages
        return self._shown(tab)

    # Asking

    async def _ask_again(
        self, tab: Tab, given: Mapping[Component, Any], index: int, text: str | None = None
    ) -> AsyncIterator[Update]:
        conversation = tab.visitor.conversation
        old = conversation.turns[index].view
        if text is not None and not text.strip():
            yield self._shown(tab) | self._notice("The edited question was empty, so nothing was sent.")
            return
        tab.visitor.conversation = conversation.before(index)
        async for update in self._ask(tab, given, old.user if text is None else text, form=old.form):
            yield update

    async def _ask(
        self,
        tab: Tab,
        given: Mapping[Component, Any],
        text: str,
        *,
        form: Mapping[str, Any] | None = None,
        clear: bool = False,
    ) -> AsyncIterator[Update]:
        """Run one turn: what was asked at once, then the answer as it grows, then the end."""
        try:
            request, view = self._request(tab, given, text, form)
        except DemoError as error:
            yield self._notice(error.public_message)
            return
        live = LiveTurn(self.service.turn(request), view, time.monotonic)
        tab.begin(live)
        try:
            first = self._first(tab, live.view)
            before = tab.visitor.conversation.drawn(first)
            asked = self._notice("") | {
                self.page.chatbot: before + messages(live.view),
                self.page.composer: self._composer(running=True, clear=clear),
                self.page.earlier: gr.update(visible=first > 0),
            }
            yield asked
            async for snapshot in live.snapshots(1 / self.settings.ui_updates_per_s):
                if snapshot.running:
                    yield {self.page.chatbot: before + messages(snapshot)}
        finally:
            # Also when the tab is gone: a reload must find what had streamed.
            ended = live.view.stopped(time.monotonic())
            tab.visitor.conversation = tab.visitor.conversation.adding(ended)
            tab.end()
        yield self._shown(tab) | self._saved(tab)

    def _request(
        self, tab: Tab, given: Mapping[Component, Any], text: str, form: Mapping[str, Any] | None
    ) -> tuple[TurnRequest, TurnView]:
        sidebar = self.page.sidebar
        if not text.strip():
            raise InvalidInput("Write a question first.")
        if given[sidebar.backend] == SERVED:
            raise NotFound("No version is served yet. Log a version and serve it first.")
        spec = self.service.programs.get(given[sidebar.program])
        drawn_form = self.page.forms[spec.name]
        known = {field.name for field in spec.form_fields}
        values = dict(form) if form and set(form) <= known else drawn_form.values(given)
        request = TurnRequest(
            LocalTarget(spec.name, sidebar.choice(given)),
            {**values, spec.chat_field: text},
            tab.visitor.conversation.history() if spec.history_field else (),
            session_id=tab.visitor.id[:12],
        )
        self.service.check(request)
        view = TurnView.start(
            text,
            now_s=time.monotonic(),
            turn_id=request.turn_id,
            inputs=drawn_form.pairs(values),
            form=values,
            expected=spec.outputs,
            answer_field=spec.answer_field,
        )
        return request, view

    # Drawing

    def _free_tab(self, request: gr.Request) -> Tab | None:
        tab = self.store.tab(str(request.session_hash))
        return None if tab is None or tab.live is not None else tab

    def _first(self, tab: Tab, live: TurnView | None = None) -> int:
        """The first turn on the page; a running one needs room too."""
        room = len(messages(live)) if live else 0
        return tab.visitor.conversation.window(tab.window - room)

    def _shown(self, tab: Tab) -> Update:
        first = self._first(tab)
        return {
            self.page.chatbot: tab.visitor.conversation.drawn(first),
            self.page.composer: self._composer(running=False),
            self.page.earlier: gr.update(visible=first > 0),
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


@dataclass(frozen=True, slots=True)
class SidebarHandlers:
    """The sidebar: what follows from a choice. No model is built or called here."""

    page: Page

    def model_changed(self, model: str) -> Update:
        return {
            self.page.sidebar.other: gr.update(visible=model == OTHER),
            self.page.banner: gr.update(visible=self._is_builtin(model)),
        }

    def program_changed(self, program: str) -> Update:
        spec = self.page.sidebar.programs[program]
        forms = {
            form.group: gr.update(visible=name == program and bool(form.widgets))
            for name, form in self.page.forms.items()
        }
        return {
            self.page.sidebar.about_program: html.escape(spec.description),
            self.page.chatbot: gr.update(examples=example_rows(spec)),
            self.page.composer: gr.update(placeholder=placeholder(spec)),
            **forms,
        }

    def _is_builtin(self, model: str) -> bool:
        detection = self.page.sidebar.detection
        return detection.builtin and model == detection.choice.model
