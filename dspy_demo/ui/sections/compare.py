"""Compare: one question, two answers beside each other, and what differs. Only on the owner's page."""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from difflib import SequenceMatcher
from typing import Any

import gradio as gr
from gradio.components import Component

from dspy_demo.chat import ChatService
from dspy_demo.errors import DemoError
from dspy_demo.events import LocalTarget, ServedTarget, TurnRequest
from dspy_demo.programs.spec import ProgramSpec
from dspy_demo.ui import components as ui
from dspy_demo.ui.chat.render import messages
from dspy_demo.ui.chat.section import Chat
from dspy_demo.ui.chat.session import REDRAW_S, LiveTurn
from dspy_demo.ui.chat.turn_view import StatusLine, TurnView
from dspy_demo.ui.chat.widgets import CHATBOT, composer, composer_update
from dspy_demo.ui.components import Given, Update
from dspy_demo.ui.gradio_bridge import delivered
from dspy_demo.ui.sections.backend import LOCAL, SERVED
from dspy_demo.ui.sections.picks import Picks, program_behind
from dspy_demo.ui.sections.versions import wanted_server
from dspy_demo.versions.store import VersionStore

#: Longer texts are compared by lines: words would take too long.
CHARS_MAX = 8_000
_WORD, _LINE = re.compile(r"\s+|\w+|[^\w\s]"), re.compile(r".+\n?|\n")


class CompareSection:
    """A tab with a question and two columns; the programs' further inputs come from the chat's forms."""

    def __init__(self, service: ChatService, store: VersionStore, *, picks: Picks, chat: Chat) -> None:
        self._service, self._store, self._picks, self._chat = service, store, picks, chat
        #: What runs in a tab, by its session: the task that begins both turns, and then the turns.
        self._asking: dict[str, asyncio.Task[list[LiveTurn]]] = {}
        self._targets: list[gr.Dropdown] = []
        self._chats: list[gr.Chatbot] = []

    def draw(self) -> None:
        with gr.Tab("Compare", id="compare") as self.tab, gr.Column(elem_id="compare"):
            with gr.Row(elem_id="sides", equal_height=False):
                for side, value in (("left", LOCAL), ("right", SERVED)):
                    rows, name = [(LOCAL, LOCAL), (SERVED, SERVED)], side.capitalize()
                    with gr.Column(min_width=280, elem_classes="side"):
                        target = ui.dropdown(rows, value, label=f"{name} answers with", container=False)
                        named = {"elem_classes": ["conversation", "side-chat"], "elem_id": f"chat-{side}"}
                        plain = {"label": f"{name} answer", "height": None, "placeholder": " "}
                        self._targets.append(target)
                        self._chats.append(gr.Chatbot(**named, **plain, feedback_options=None, **CHATBOT))
            self.difference = ui.action_html(difference_html({}), elem_id="difference")
            with gr.Column(elem_id="compare-dock"):
                self.composer = composer("compare-composer", "Question to both", "Ask both")
                self.notice = gr.HTML(elem_id="compare-notice", elem_classes="own notice", padding=False)

    def wire(self, demo: gr.Blocks, now: dict[str, Any]) -> None:
        self._demo, targets = demo, {*self._targets}
        chosen = {self._picks.program.picker, self._picks.backend.connected}
        self.tab.select(self.choices, chosen, targets, **now)
        inputs = {*self._picks.inputs, *self._chat.widgets.forms.inputs, *targets, self.composer}
        outputs = {*self._chats, self.difference, self.composer, self.notice}
        # The messages are ready for the wire; see `render`.
        self.composer.submit(self.ask, inputs, outputs, **now | {"queue": True, "postprocess": False})
        self.composer.stop(self.stop, **now)
        demo.unload(self.stop)

    async def choices(self, given: dict[Component, Any], request: gr.Request) -> Update:
        """What can be chosen for a side now: local, served, and each version that can answer."""
        if not ui.is_owner(request):
            return ui.skip()
        try:
            versions = await asyncio.to_thread(self._store.versions)
        except DemoError:
            versions = []
        backend, program = self._picks.backend, self._picks.program
        own, connected = backend.servers.state(), given[backend.connected]
        served = ui.title_of(own.version) if own.phase == "ready" else "nothing yet"
        rows = [
            (f"Local · {program.title(given, None)}", LOCAL),
            (f"Served · {connected.title if connected else served}", SERVED),
            *((f"Version · {ui.title_of(v.uri)}", v.uri) for v in versions if v.servable),
        ]
        return {target: gr.update(choices=rows) for target in self._targets}

    async def ask(self, given: dict[Component, Any], request: gr.Request) -> AsyncIterator[Update]:
        """Both turns from the click to their ends, or none; a version's server has to start first."""
        key, text = str(request.session_hash), given[self.composer] or ""
        if key in self._asking or not text.strip() or not ui.is_owner(request):
            yield ui.skip()
            return
        asking = self._asking[key] = asyncio.create_task(self._turns(given, text, request), name="compare")
        free = composer_update(running=False)
        try:
            busy = composer_update(running=True, value="")
            starting = [f"Starting {ui.title_of(given[target])}" for target in self._targets]
            shown = self._drawn([TurnView(text, work=(StatusLine(one, "pending"),)) for one in starting])
            yield shown | {self.difference: difference_html({}), self.notice: "", self.composer: busy}
            await asyncio.wait({asking})
            error = None if asking.cancelled() else asking.exception()
            if asking.cancelled() or error is not None:  # stopped before they began, or why they did not
                why = ui.message(ui.sentence_of(error), wrong=True) if isinstance(error, Exception) else ""
                back = {self.notice: why, self.composer: free | {"value": text}}
                yield {chat: [] for chat in self._chats} | back
                return
            turns = asking.result()
            while any(turn.view.running for turn in turns):
                if delivered(self._demo, request):
                    yield self._drawn([turn.view for turn in turns])
                await asyncio.sleep(REDRAW_S)
            await asyncio.gather(*(turn.ended() for turn in turns))
            views = [turn.view for turn in turns]
            notice = ui.message(self._service.tracer.notice or "")
            html = await asyncio.to_thread(differences, *views)
            yield self._drawn(views) | {self.difference: html, self.notice: notice, self.composer: free}
        finally:
            await self.stop(request)
            del self._asking[key]

    async def stop(self, request: gr.Request) -> None:
        """Stop both; also when the tab was closed."""
        asking = self._asking.get(str(request.session_hash))
        if asking is None or asking.cancel():  # cancelled while servers start
            return
        if not asking.cancelled() and asking.exception() is None:
            await asyncio.gather(*(turn.stop() for turn in asking.result()))

    def _drawn(self, views: list[TurnView]) -> Update:
        return {chat: messages(view) for chat, view in zip(self._chats, views, strict=True)}

    async def _turns(self, given: Given, text: str, request: gr.Request) -> list[LiveTurn]:
        targets = await asyncio.gather(*(self._target(given, given[target]) for target in self._targets))
        asked = []
        for target, spec in targets:
            values = self._chat.widgets.forms.values(spec, given) | {spec.chat_field: text}
            turn = TurnRequest(target, values, visitor=ui.visitor_of(request))
            self._service.check(turn)
            asked.append((turn, spec))
        return [LiveTurn(self._service, turn, spec) for turn, spec in asked]

    async def _target(self, given: Given, picked: str) -> tuple[LocalTarget | ServedTarget, ProgramSpec]:
        """What answers. A version does so in a process of its own, by the code that it was logged with."""
        picks = self._picks
        if picked == LOCAL:
            return picks.local(given)
        if picked == SERVED:
            return picks.served(given)
        version = await asyncio.to_thread(self._store.get, picked)
        state = await picks.backend.servers.beside(wanted_server(version, picks.model, given))
        return state.target, program_behind(state.program, picks.program.registry)


def differences(left: TurnView, right: TurnView) -> str:
    thoughts = ["\n\n".join(thought.text for thought in view.thoughts) for view in (left, right)]
    answers = (left.answer_text, right.answer_text)
    return difference_html({"Answer": answers, "Reasoning": (thoughts[0], thoughts[1])})


def difference_html(texts: Mapping[str, tuple[str, str]]) -> str:
    """The differences of some pairs of texts by title; a text that only one side has is left out."""
    pairs = {title: (left.strip(), right.strip()) for title, (left, right) in texts.items()}
    parts = {title: changes(*pair) for title, pair in pairs.items() if all(pair)}
    return ui.template("difference.html", parts=parts)


def changes(left: str, right: str) -> list[tuple[str, str]]:
    """Two texts as one, in parts, each with its side: ``left``, ``right``, or empty for both."""
    by = _WORD if len(left) + len(right) <= CHARS_MAX else _LINE
    before, after = by.findall(left), by.findall(right)
    parts = []
    for tag, a, b, c, d in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        parts.append(("" if tag == "equal" else "left", "".join(before[a:b])))
        if tag != "equal":
            parts.append(("right", "".join(after[c:d])))
    return parts
