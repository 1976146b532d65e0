"""Compare: one question, two answers beside each other, and what differs. Only on the owner's page."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from typing import Any

import gradio as gr
from gradio.components import Component

from dspy_demo.chat import ChatService
from dspy_demo.errors import DemoError
from dspy_demo.events import LocalTarget, ServedTarget, Status, TurnRequest
from dspy_demo.programs.spec import ProgramSpec
from dspy_demo.ui import components as ui
from dspy_demo.ui.chat.live import REDRAW_S, LiveTurn
from dspy_demo.ui.chat.render import messages
from dspy_demo.ui.chat.section import Chat
from dspy_demo.ui.chat.turn_view import TurnView
from dspy_demo.ui.chat.widgets import CHATBOT, composer
from dspy_demo.ui.components import Given, Update
from dspy_demo.ui.gradio_bridge import delivered
from dspy_demo.ui.sections.backend import Connected
from dspy_demo.ui.sections.picks import SidebarPicks, program_behind
from dspy_demo.ui.sections.versions import wanted_server
from dspy_demo.versions.store import VersionStore

LOCAL_SIDE, SERVED_SIDE = "local", "served"
SIDES = ("left", "right")
#: More words than this would hold up the page; answers of a chat are far shorter.
WORDS_MAX = 4000
_WORD = re.compile(r"\s+|\w+|[^\w\s]")


@dataclass(slots=True)
class Comparison:
    """The two turns of one question in one tab; `turns` begin when the servers of `asking` have started."""

    asking: asyncio.Task[list[LiveTurn]]
    turns: list[LiveTurn] = field(default_factory=list)

    async def stop(self) -> None:
        self.asking.cancel()
        await asyncio.gather(*(turn.stop() for turn in self.turns))


class CompareSection:
    """A tab with a question and two columns; the programs' further inputs come from the chat's forms."""

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
            self.difference = ui.action_html(difference_html({}), elem_id="difference")
            with gr.Column(elem_id="compare-dock"):
                self.composer = composer("compare-composer", "Question to both", "Ask both")
                self.notice = gr.HTML(elem_id="compare-notice", elem_classes="own notice", padding=False)

    def _draw_side(self, side: str, value: str) -> None:
        with gr.Column(min_width=280, elem_classes="side"):
            self.targets[side] = ui.dropdown(
                [("Local", LOCAL_SIDE), ("Served", SERVED_SIDE)],
                value,
                label=f"{side.capitalize()} answers with",
                container=False,
                elem_id=f"compare-{side}",
            )
            self.chats[side] = gr.Chatbot(
                elem_classes="side-chat",
                elem_id=f"chat-{side}",
                label=f"{side.capitalize()} answer",
                height=None,
                placeholder=" ",
                feedback_options=None,
                **CHATBOT,
            )

    def wire(self, demo: gr.Blocks, now: dict[str, Any]) -> None:
        self._demo = demo
        chosen, targets = (
            [self._picks.program.picker, self._picks.backend.connected],
            {*self.targets.values()},
        )
        inputs = {*self._picks.inputs, *self._chat.widgets.forms.inputs, *targets, self.composer}
        outputs = {*self.chats.values(), self.difference, self.composer, self.notice}
        self.tab.select(self.choices, chosen, targets, **now)
        # The messages are ready for the wire; see `render`.
        drawing = now | {"queue": True, "postprocess": False}
        self.composer.submit(self.ask, inputs, outputs, **drawing)
        self.composer.stop(self.stop, **now)
        demo.unload(self.stop)

    async def choices(self, program: str, connected: Connected | None, request: gr.Request) -> Update:
        """What can be chosen for a side now: local, served, and each version that can answer."""
        if not ui.is_owner(request):
            return ui.skip()
        try:
            versions = await asyncio.to_thread(self._store.versions)
        except DemoError:
            versions = []
        state = self._picks.backend.servers.state()
        own = ui.title_of(state.version) if state.phase == "ready" else "nothing yet"
        rows = [
            (f"Local · {self._picks.program.title(program)}", LOCAL_SIDE),
            (f"Served · {connected.title if connected else own}", SERVED_SIDE),
            *((f"Version · {ui.title_of(v.uri)}", v.uri) for v in versions if v.servable),
        ]
        return {target: gr.update(choices=rows) for target in self.targets.values()}

    async def ask(self, given: dict[Component, Any], request: gr.Request) -> AsyncIterator[Update]:
        """Both turns from the click to their ends, or none; a version's server has to start first."""
        key, text = str(request.session_hash), given[self.composer] or ""
        if key in self._open or not text.strip() or not ui.is_owner(request):
            yield ui.skip()
            return
        asking = asyncio.create_task(self._turns(given, text, request), name="compare")
        comparison = self._open[key] = Comparison(asking)
        try:
            yield {
                **{self.chats[side]: messages(_waiting(text, given[self.targets[side]])) for side in SIDES},
                self.difference: difference_html({}),
                self.notice: "",
                self.composer: gr.update(value="", submit_btn=False, stop_btn="Stop"),
            }
            await asyncio.wait({asking})
            if asking.cancelled() or asking.exception() is not None:
                yield self._given_back(text, None if asking.cancelled() else asking.exception())
                return
            comparison.turns = asking.result()
            while any(turn.view.running for turn in comparison.turns):
                if delivered(self._demo, request):
                    yield self._drawn(comparison.turns)
                await asyncio.sleep(REDRAW_S)
            await asyncio.gather(*(turn.ended() for turn in comparison.turns))
            yield self._drawn(comparison.turns) | await asyncio.to_thread(self._settled, comparison.turns)
        finally:
            del self._open[key]
            await comparison.stop()

    async def stop(self, request: gr.Request) -> None:
        """Stop both; also when the tab was closed."""
        if comparison := self._open.get(str(request.session_hash)):
            await comparison.stop()

    def _drawn(self, turns: list[LiveTurn]) -> Update:
        return {chat: messages(turn.view) for chat, turn in zip(self.chats.values(), turns, strict=True)}

    def _settled(self, turns: list[LiveTurn]) -> Update:
        left, right = (turn.view for turn in turns)
        texts = {
            "Answer": (left.answer_text, right.answer_text),
            "Reasoning": (_reasoning(left), _reasoning(right)),
        }
        return {
            self.difference: difference_html(texts),
            self.notice: ui.message(self._service.tracer.notice or ""),
            self.composer: gr.update(submit_btn="Send", stop_btn=False),
        }

    def _given_back(self, text: str, error: BaseException | None) -> Update:
        """The page after a question that could not be asked, or was stopped before."""
        wrong = ui.message(ui.sentence_of(error), wrong=True) if isinstance(error, Exception) else ""
        back = gr.update(value=text, submit_btn="Send", stop_btn=False)
        return {self.notice: wrong, self.composer: back, **{chat: [] for chat in self.chats.values()}}

    async def _turns(self, given: Given, text: str, request: gr.Request) -> list[LiveTurn]:
        """Both turns, running."""
        wanted = (given[self.targets[side]] for side in SIDES)
        targets = await asyncio.gather(*(self._target(given, picked) for picked in wanted))
        asked = []
        for target, spec in targets:
            values = self._chat.widgets.forms.values(spec, given) | {spec.chat_field: text}
            turn = TurnRequest(target, values, visitor=ui.visitor_of(request))
            self._service.check(turn)
            view = TurnView(
                text,
                started_s=time.monotonic(),
                turn_id=turn.turn_id,
                expected=spec.outputs,
                answer_field=spec.answer_field,
            )
            asked.append((turn, view))
        return [LiveTurn(self._service.turn(turn), view) for turn, view in asked]

    async def _target(self, given: Given, picked: str) -> tuple[LocalTarget | ServedTarget, ProgramSpec]:
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
    return view.apply(Status(f"Starting {ui.title_of(picked)}", "pending", "start"), time.monotonic())


def _reasoning(view: TurnView) -> str:
    return "\n\n".join(thought.text for thought in view.thoughts)


def difference_html(texts: Mapping[str, tuple[str, str]]) -> str:
    """The differences of some pairs of texts by title; a text that only one side has is left out."""
    parts: list[dict[str, Any]] = []
    for title, pair in texts.items():
        left, right = (text.strip() for text in pair)
        if left and right:
            words = _WORD.findall(left), _WORD.findall(right)
            short = sum(map(len, words)) <= WORDS_MAX
            changes = list(word_changes(*words)) if short and left != right else []
            note = "Identical" if left == right else "The texts are too long to be compared word by word."
            parts.append({"title": title, "note": note, "changes": changes})
    return ui.template("difference.html", parts=parts)


def word_changes(before: list[str], after: list[str]) -> Iterator[tuple[str, str]]:
    """The two texts as one, in parts: ``same`` on both sides, or only ``left`` or ``right``."""
    for tag, a, b, c, d in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if tag == "equal":
            yield "same", "".join(before[a:b])
        else:
            yield "left", "".join(before[a:b])
            yield "right", "".join(after[c:d])
