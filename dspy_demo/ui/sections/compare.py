"""Compare: one question, two answers beside each other, and what differs. Only on the owner's page."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from functools import partial
from typing import Any, Literal

import gradio as gr
from gradio.components import Component

from dspy_demo.chat import ChatService
from dspy_demo.errors import DemoError, InvalidInput
from dspy_demo.events import LocalTarget, ServedTarget, Status, TurnRequest, Visitor
from dspy_demo.programs.spec import ProgramSpec
from dspy_demo.ui.chat.live import LiveTurn
from dspy_demo.ui.chat.render import WireMessage, messages
from dspy_demo.ui.chat.section import Chat
from dspy_demo.ui.chat.turn_view import TurnView
from dspy_demo.ui.chat.widgets import MATH, composer
from dspy_demo.ui.components import (
    Update,
    message,
    owner_only,
    sentence_of,
    skip,
    template,
    title_of,
    visitor_of,
)
from dspy_demo.ui.gradio_bridge import delivered
from dspy_demo.ui.sections.backend import Connected
from dspy_demo.ui.sections.picks import SidebarPicks
from dspy_demo.ui.sections.program import program_behind
from dspy_demo.ui.sections.versions import wanted_server
from dspy_demo.versions.store import VersionStore

LOCAL_SIDE, SERVED_SIDE = "local", "served"
SIDES = ("left", "right")
#: More words than this would hold up the page; answers of a chat are far shorter.
WORDS_MAX = 4000
SAME, TOO_LONG = "Identical", "The texts are too long to be compared word by word."
Change = tuple[Literal["same", "left", "right"], str]
Requests = list[tuple[TurnRequest, TurnView]]
_WORD = re.compile(r"\s+|\w+|[^\w\s]")


@dataclass(slots=True)
class Comparison:
    """The two turns of one question in one tab.

    Attributes:
        asking: Ends with the requests of both sides, when the servers of their versions have started.
        turns: By side, from then on.
    """

    asking: asyncio.Task[Requests]
    turns: dict[str, LiveTurn] = field(default_factory=dict)

    @property
    def running(self) -> bool:
        return not self.asking.done() or any(turn.view.running for turn in self.turns.values())

    async def stop(self) -> None:
        self.asking.cancel()
        await asyncio.gather(*(turn.stop() for turn in self.turns.values()))


class CompareSection:
    """As in the chat a question is accepted, then each side draws itself, then both are settled.

    Args:
        chat: Its forms hold the further inputs of the programs.
    """

    def __init__(self, service: ChatService, store: VersionStore, *, picks: SidebarPicks, chat: Chat) -> None:
        self._service, self._store = service, store
        self._picks, self._chat = picks, chat
        self._open: dict[str, Comparison] = {}
        self.targets: dict[str, gr.Dropdown] = {}
        self.chats: dict[str, gr.Chatbot] = {}

    def draw(self) -> None:
        with gr.Tab("Compare", id="compare") as self.tab, gr.Column(elem_id="compare"):
            with gr.Row(elem_id="sides", equal_height=False):
                for side, value in zip(SIDES, (LOCAL_SIDE, SERVED_SIDE), strict=True):
                    self._draw_side(side, value)
            self.difference = gr.HTML(
                difference_html({}), elem_id="difference", elem_classes="own", padding=False
            )
            with gr.Column(elem_id="compare-dock"):
                self.composer = composer("compare-composer", "Question to both", "Ask both")
                self.notice = gr.HTML(elem_id="compare-notice", elem_classes="own notice", padding=False)

    def _draw_side(self, side: str, value: str) -> None:
        with gr.Column(min_width=280, elem_classes="side"):
            self.targets[side] = gr.Dropdown(
                [("Local", LOCAL_SIDE), ("Served", SERVED_SIDE)],
                value=value,
                label=f"{side.capitalize()} answers with",
                show_label=False,
                container=False,
                filterable=False,
                elem_id=f"compare-{side}",
            )
            self.chats[side] = gr.Chatbot(
                elem_classes="side-chat",
                elem_id=f"chat-{side}",
                label=f"{side.capitalize()} answer",
                show_label=False,
                container=False,
                layout="bubble",
                height=None,
                buttons=["copy"],
                sanitize_html=True,
                allow_tags=False,
                latex_delimiters=MATH,
                placeholder=" ",
                feedback_options=None,
            )

    def wire(self, demo: gr.Blocks, now: dict[str, Any]) -> None:
        # The messages are ready for the wire; see `render`.
        shown = now | {"postprocess": False}
        queued = shown | {"queue": True}
        outputs = {*self.chats.values(), self.difference, self.composer, self.notice}
        targets = set(self.targets.values())
        forms = self._chat.widgets.forms
        inputs = {*self._picks.inputs, *forms.inputs, *targets, self.composer}
        chosen = [self._picks.program.picker, self._picks.backend.connected]
        self._demo = demo
        self.tab.select(self.choices, chosen, targets, **now)
        demo.unload(self.unload)
        accepted = self.composer.submit(self.ask, inputs, outputs, **queued)
        for side in SIDES:
            drawn = accepted.then(getattr(self, f"draw_{side}"), None, self.chats[side], **queued)
            drawn.then(self.settle, None, outputs, **shown)
        self.composer.stop(self.stop, **now)

    async def choices(self, program: str, connected: Connected | None, request: gr.Request) -> Update:
        """What can be chosen for a side now: local, served, and each version that can answer."""
        if visitor_of(request).role != "owner":
            return skip()
        try:
            versions = await asyncio.to_thread(self._store.versions)
        except DemoError:
            versions = []
        state = self._picks.backend.servers.state()
        served = connected.title if connected else title_of(state.version) if state.phase == "ready" else ""
        rows = [
            (f"Local · {self._picks.program.title(program)}", LOCAL_SIDE),
            (f"Served · {served or 'nothing yet'}", SERVED_SIDE),
            *((f"Version · {title_of(v.uri)}", v.uri) for v in versions if v.servable),
        ]
        return {target: gr.update(choices=rows) for target in self.targets.values()}

    async def ask(self, given: dict[Component, Any], request: gr.Request) -> AsyncIterator[Update]:
        """Begin both turns, or none; a version's server has to start first, and the page says so."""
        key = str(request.session_hash)
        if (last := self._open.get(key)) and last.running:
            yield skip()
            return
        text = given[self.composer] or ""
        try:
            owner_only(request)
            if not text.strip():
                raise InvalidInput("Write a question first.")
        except DemoError as error:
            yield {self.notice: message(sentence_of(error), wrong=True)}
            return
        asking = asyncio.create_task(self._requests(given, text, visitor_of(request)), name="compare")
        comparison = self._open[key] = Comparison(asking)
        yield {
            **{self.chats[side]: messages(_waiting(text, given[self.targets[side]])) for side in SIDES},
            self.difference: difference_html({}),
            self.notice: "",
            self.composer: gr.update(value="", submit_btn=False, stop_btn="Stop"),
        }
        await asyncio.wait({asking})
        yield self._begun(comparison, text)

    def _begun(self, comparison: Comparison, text: str) -> Update:
        """Both turns run from here on; if they cannot, the question goes back into the composer."""
        asking = comparison.asking
        error = None if asking.cancelled() else asking.exception()
        if asking.cancelled() or error is not None:
            return {
                **{chat: [] for chat in self.chats.values()},
                self.notice: message(sentence_of(error), wrong=True) if isinstance(error, Exception) else "",
                self.composer: gr.update(value=text, submit_btn="Send", stop_btn=False),
            }
        for side, (turn, view) in zip(SIDES, asking.result(), strict=True):
            comparison.turns[side] = LiveTurn(self._service.turn(turn), view)
        return {self.chats[side]: messages(turn.view) for side, turn in comparison.turns.items()}

    async def draw_left(self, request: gr.Request) -> AsyncIterator[list[WireMessage]]:
        async for drawn in self._draw("left", request):
            yield drawn

    async def draw_right(self, request: gr.Request) -> AsyncIterator[list[WireMessage]]:
        async for drawn in self._draw("right", request):
            yield drawn

    async def _draw(self, side: str, request: gr.Request) -> AsyncIterator[list[WireMessage]]:
        comparison = self._open.get(str(request.session_hash))
        live = comparison.turns.get(side) if comparison else None
        if live is None:
            yield gr.skip()
            return
        try:
            async for snapshot in live.snapshots(partial(delivered, self._demo, request)):
                yield messages(snapshot)
        finally:
            if live.view.running:
                await live.stop()

    async def settle(self, request: gr.Request) -> Update:
        """One side has ended; after the second one the difference is shown."""
        comparison = self._open.get(str(request.session_hash))
        if comparison is None or comparison.running or not comparison.turns:
            return skip()
        left, right = (turn.view for turn in comparison.turns.values())
        parts = {
            "Answer": (left.answer_text, right.answer_text),
            "Reasoning": (_reasoning(left), _reasoning(right)),
        }
        return {
            self.difference: await asyncio.to_thread(difference_html, parts),
            self.composer: gr.update(submit_btn="Send", stop_btn=False),
            self.notice: message(self._service.tracer.notice or ""),
        }

    async def stop(self, request: gr.Request) -> None:
        """Stop both."""
        if comparison := self._open.get(str(request.session_hash)):
            await comparison.stop()

    async def unload(self, request: gr.Request) -> None:
        """The tab was closed."""
        if comparison := self._open.pop(str(request.session_hash), None):
            await comparison.stop()

    async def _requests(self, given: Mapping[Component, Any], text: str, visitor: Visitor) -> Requests:
        targets = [given[self.targets[side]] for side in SIDES]
        asked = await asyncio.gather(*(self._request(given, target, text, visitor) for target in targets))
        for turn, _ in asked:
            self._service.check(turn)
        return asked

    async def _request(
        self, given: Mapping[Component, Any], picked: str, text: str, visitor: Visitor
    ) -> tuple[TurnRequest, TurnView]:
        target, spec = await self._target(given, picked)
        values = self._chat.widgets.forms.values(spec, given)
        request = TurnRequest(target, {**values, spec.chat_field: text}, visitor=visitor)
        view = TurnView(
            text,
            started_s=time.monotonic(),
            turn_id=request.turn_id,
            expected=spec.outputs,
            answer_field=spec.answer_field,
        )
        return request, view

    async def _target(
        self, given: Mapping[Component, Any], picked: str
    ) -> tuple[LocalTarget | ServedTarget, ProgramSpec]:
        """What answers. A version does so in a process of its own, by the code that it was logged with."""
        picks = self._picks
        if picked == LOCAL_SIDE:
            return picks.local(given)
        if picked == SERVED_SIDE:
            return picks.served(given)
        version = await asyncio.to_thread(self._store.get, picked)
        state = await picks.backend.servers.beside(wanted_server(version, picks.model, given))
        return state.target, program_behind(state.program, picks.program.registry)


def _waiting(text: str, picked: str) -> TurnView:
    """A side before its turn has begun."""
    view = TurnView(text, started_s=time.monotonic())
    if picked in {LOCAL_SIDE, SERVED_SIDE}:
        return view
    return view.apply(Status(f"Starting {title_of(picked)}", "pending", "start"), time.monotonic())


def _reasoning(view: TurnView) -> str:
    return "\n\n".join(thought.text for thought in view.thoughts)


def difference_html(texts: Mapping[str, tuple[str, str]]) -> str:
    """The differences of some pairs of texts by title; a text that only one side has is left out."""
    parts: list[dict[str, Any]] = []
    for title, pair in texts.items():
        left, right = (text.strip() for text in pair)
        if not left or not right:
            continue
        changes: list[Change] = []
        note = SAME
        if left != right:
            note = TOO_LONG
            if len(_WORD.findall(left)) + len(_WORD.findall(right)) <= WORDS_MAX:
                changes = list(word_changes(left, right))
        parts.append({"title": title, "note": note, "changes": changes})
    return template("difference.html", parts=parts)


def word_changes(left: str, right: str) -> Iterator[Change]:
    """The two texts as one: what both have, what only the left one has, what only the right one has."""
    before, after = _WORD.findall(left), _WORD.findall(right)
    matcher = SequenceMatcher(None, before, after, autojunk=False)
    for tag, a, b, c, d in matcher.get_opcodes():
        if tag == "equal":
            yield "same", "".join(before[a:b])
            continue
        if b > a:
            yield "left", "".join(before[a:b])
        if d > c:
            yield "right", "".join(after[c:d])
