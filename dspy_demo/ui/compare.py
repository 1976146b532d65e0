"""Ask once, answer twice: what happens in the Compare tab."""

from __future__ import annotations

import asyncio
import html
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import gradio as gr
from gradio.components import Component

from dspy_demo.chat import ChatService
from dspy_demo.errors import DemoError, InvalidInput
from dspy_demo.events import LocalTarget, ServedTarget, Status, TurnRequest, Visitor
from dspy_demo.programs.spec import ProgramSpec
from dspy_demo.serving.processes import Wanted
from dspy_demo.ui.asker import owner_only, visitor_of
from dspy_demo.ui.chat.live import LiveTurn
from dspy_demo.ui.chat.render import WireMessage, messages
from dspy_demo.ui.chat.turn_view import TurnView
from dspy_demo.ui.compare_view import LOCAL_SIDE, NOTHING_YET, SERVED_SIDE, CompareView, Side
from dspy_demo.ui.gradio_bridge import delivered
from dspy_demo.ui.layout import Page
from dspy_demo.ui.served_program import program_behind
from dspy_demo.ui.server_lines import Connected
from dspy_demo.ui.server_panel import ServedChoice, served_choice
from dspy_demo.ui.version_handlers import typed_key
from dspy_demo.ui.version_rows import title_of
from dspy_demo.ui.word_diff import difference_html
from dspy_demo.ui.workbench import Workbench, sentence_of

Update = dict[Component, Any]


@dataclass(slots=True)
class Comparison:
    """The two turns of one question in one tab.

    Attributes:
        asking: Ends with what the sides are asked, when the servers of their versions have started.
        turns: By side, from then on.
    """

    asking: asyncio.Task[list[tuple[TurnRequest, TurnView]]]
    turns: dict[str, LiveTurn] = field(default_factory=dict)

    @property
    def running(self) -> bool:
        return not self.asking.done() or any(turn.view.running for turn in self.turns.values())

    async def stop(self) -> None:
        self.asking.cancel()
        await asyncio.gather(*(turn.stop() for turn in self.turns.values()))


@dataclass(frozen=True, slots=True)
class CompareHandlers:
    """As in the chat a question is accepted, then each side draws itself, then both are settled."""

    service: ChatService
    workbench: Workbench
    page: Page
    view: CompareView
    demo: gr.Blocks
    open: dict[str, Comparison] = field(default_factory=dict)

    @property
    def inputs(self) -> set[Component]:
        return {
            *self.page.sidebar.inputs,
            *self.page.chat.forms.inputs,
            self.view.composer,
            self.view.left.target,
            self.view.right.target,
        }

    @property
    def outputs(self) -> set[Component]:
        return {*self.view.chats, self.view.difference, self.view.composer, self.view.notice}

    async def choices(self, program: str, connected: Connected | None, request: gr.Request) -> Update:
        """What can be chosen for a side now: local, served, and each version that can answer."""
        if visitor_of(request).role != "owner":
            skip: Update = gr.skip()
            return skip
        try:
            versions = await asyncio.to_thread(self.workbench.store.versions)
        except DemoError:
            versions = []
        state = self.workbench.servers.state()
        served = connected.title if connected else title_of(state.version) if state.phase == "ready" else ""
        rows = [
            (f"Local · {self.service.programs.get(program).title}", LOCAL_SIDE),
            (f"Served · {served or 'nothing yet'}", SERVED_SIDE),
            *((f"Version · {title_of(v.uri)}", v.uri) for v in versions if v.servable),
        ]
        return {side.target: gr.update(choices=rows) for side in (self.view.left, self.view.right)}

    async def ask(self, given: dict[Component, Any], request: gr.Request) -> AsyncIterator[Update]:
        """Begin both turns, or none; a version's server has to start first, and the page says so."""
        key = str(request.session_hash)
        if (last := self.open.get(key)) and last.running:
            yield gr.skip()
            return
        text = given[self.view.composer] or ""
        try:
            owner_only(request)
            if not text.strip():
                raise InvalidInput("Write a question first.")
        except DemoError as error:
            yield {self.view.notice: html.escape(sentence_of(error))}
            return
        asking = asyncio.create_task(self._asked(given, text, visitor_of(request)), name="compare")
        comparison = self.open[key] = Comparison(asking)
        yield {
            **{side.chat: messages(_waiting(text, given[side.target])) for side in self.view.sides},
            self.view.difference: NOTHING_YET,
            self.view.notice: "",
            self.view.composer: gr.update(value="", submit_btn=False, stop_btn="Stop"),
        }
        await asyncio.wait({asking})
        yield self._begun(comparison, text)

    def _begun(self, comparison: Comparison, text: str) -> Update:
        """Both turns run from here on; if they cannot, the question goes back to who asked it."""
        asking = comparison.asking
        error = None if asking.cancelled() else asking.exception()
        if asking.cancelled() or error is not None:
            return {
                **{side.chat: [] for side in self.view.sides},
                self.view.notice: html.escape(sentence_of(error)) if isinstance(error, Exception) else "",
                self.view.composer: gr.update(value=text, submit_btn="Send", stop_btn=False),
            }
        for name, (turn, view) in zip(("left", "right"), asking.result(), strict=True):
            live = comparison.turns[name] = LiveTurn(self.service.turn(turn), view)
            live.start()
        views = [view for _, view in asking.result()]
        return {side.chat: messages(view) for side, view in zip(self.view.sides, views, strict=True)}

    async def draw_left(self, request: gr.Request) -> AsyncIterator[list[WireMessage]]:
        async for drawn in self._draw("left", request):
            yield drawn

    async def draw_right(self, request: gr.Request) -> AsyncIterator[list[WireMessage]]:
        async for drawn in self._draw("right", request):
            yield drawn

    async def settle(self, request: gr.Request) -> Update:
        """One side has ended; after the second one the difference is shown."""
        comparison = self.open.get(str(request.session_hash))
        if comparison is None or comparison.running or not comparison.turns:
            skip: Update = gr.skip()
            return skip
        left, right = (turn.view for turn in comparison.turns.values())
        parts = {
            "Answer": (left.answer_text, right.answer_text),
            "Reasoning": (_reasoning(left), _reasoning(right)),
        }
        difference = await asyncio.to_thread(difference_html, parts)
        return {
            self.view.difference: difference or NOTHING_YET,
            self.view.composer: gr.update(submit_btn="Send", stop_btn=False),
            self.view.notice: html.escape(self.service.tracer.notice or ""),
        }

    async def stop(self, request: gr.Request) -> None:
        """Stop both."""
        if comparison := self.open.get(str(request.session_hash)):
            await comparison.stop()

    async def unload(self, request: gr.Request) -> None:
        """The tab was closed."""
        if comparison := self.open.pop(str(request.session_hash), None):
            await comparison.stop()

    async def _draw(self, name: str, request: gr.Request) -> AsyncIterator[list[WireMessage]]:
        comparison = self.open.get(str(request.session_hash))
        live = comparison.turns.get(name) if comparison else None
        if live is None:
            yield gr.skip()
            return
        try:
            async for snapshot in live.snapshots(partial(delivered, self.demo, request)):
                yield messages(snapshot)
        finally:
            if live.view.running:
                await live.stop()

    async def _asked(
        self, given: Mapping[Component, Any], text: str, visitor: Visitor
    ) -> list[tuple[TurnRequest, TurnView]]:
        asked = await asyncio.gather(*(self._request(given, side, text, visitor) for side in self.view.sides))
        for turn, _ in asked:
            self.service.check(turn)
        return asked

    async def _request(
        self, given: Mapping[Component, Any], side: Side, text: str, visitor: Visitor
    ) -> tuple[TurnRequest, TurnView]:
        target, spec = await self._target(given, given[side.target])
        values = self.page.chat.forms.values(spec, given)
        request = TurnRequest(target, {**values, spec.chat_field: text}, visitor=visitor)
        view = TurnView.start(
            text,
            now_s=time.monotonic(),
            turn_id=request.turn_id,
            expected=spec.outputs,
            answer_field=spec.answer_field,
        )
        return request, view

    async def _target(
        self, given: Mapping[Component, Any], picked: str
    ) -> tuple[LocalTarget | ServedTarget, ProgramSpec]:
        """What answers. A version does so in a process of its own, by the code that it was logged with."""
        sidebar = self.page.sidebar
        if picked == LOCAL_SIDE:
            spec = self.service.programs.get(given[sidebar.program])
            return LocalTarget(spec.name, sidebar.choice(given)), spec
        if picked == SERVED_SIDE:
            choice = served_choice(self.workbench.servers, given[sidebar.server.connected])
        else:
            version = await asyncio.to_thread(self.workbench.store.get, picked)
            if not version.servable:
                raise InvalidInput(version.reason)
            wanted = Wanted(version.uri, version.lm, typed_key(version, sidebar, given))
            state = await self.workbench.servers.beside(wanted)
            choice = ServedChoice(state.target, state.program)
        return choice.target, program_behind(choice, self.service.programs)


def _waiting(text: str, picked: str) -> TurnView:
    """A side before its turn has begun."""
    view = TurnView.start(text, now_s=time.monotonic())
    if picked in {LOCAL_SIDE, SERVED_SIDE}:
        return view
    return view.apply(Status(f"Starting {title_of(picked)}", "pending", "start"), time.monotonic())


def _reasoning(view: TurnView) -> str:
    return "\n\n".join(thought.text for thought in view.thoughts)
