"""The page of a role: its frame, its sections and the conversation.

A new section is a file in `sections/` with a class that has `draw` and `wire`, and one line in `PageOf`.
"""

from __future__ import annotations

from typing import Any

import gradio as gr
from gradio.components import Component

from dspy_demo.events import LocalTarget
from dspy_demo.guests.allowance import Allowance
from dspy_demo.programs.spec import ProgramSpec
from dspy_demo.ui import gradio_bridge
from dspy_demo.ui.chat.section import Chat
from dspy_demo.ui.components import Section, Services, Update
from dspy_demo.ui.sections.backend import BackendSection
from dspy_demo.ui.sections.compare import CompareSection
from dspy_demo.ui.sections.model import ModelSection
from dspy_demo.ui.sections.picks import HeaderSection, SidebarPicks
from dspy_demo.ui.sections.program import ProgramSection
from dspy_demo.ui.sections.share import ShareSection
from dspy_demo.ui.sections.versions import VersionsSection

PRODUCT = "DSPy demo"
#: The browser encrypts with it what only this browser holds; it must be the same after a restart.
BROWSER_SECRET = "dspy-demo-chat-1"  # noqa: S105
#: Loaded pages whose changes Gradio keeps; an older tab loses only its typed server's address.
SESSIONS_KEPT = 200
#: Clicks that a page must be able to answer while all turns are drawn: Gradio counts both as threads.
OTHER_EVENTS = 50


def build_page(services: Services, *, guests: Allowance | None = None) -> gr.Blocks:
    """The page of a role, to be shown by `ui.pages`; with `guests`, theirs."""
    max_turns = services.settings.max_turns
    with gr.Blocks(title=PRODUCT, analytics_enabled=False, fill_height=True, fill_width=True) as demo:
        page = PageOf(services, guests)
        page.draw()
        page.wire(demo)
    sessions = max(SESSIONS_KEPT, max_turns)
    gradio_bridge.queue(demo, events=max_turns + OTHER_EVENTS, sessions=sessions, waiting=max_turns * 2)
    return demo


class PageOf:
    """The sections of one page and the conversation between them."""

    def __init__(self, services: Services, guests: Allowance | None) -> None:
        settings, service, mlflow = services.settings, services.chat, services.mlflow
        owner = guests is None

        def offered() -> list[ProgramSpec]:
            return guests.programs_of(service.programs.specs()) if guests else service.programs.specs()

        first_url = settings.served_url or ""
        self.backend = BackendSection(services.servers, services.served, first_url=first_url, owner=owner)
        detection = guests.detection if guests else services.catalog.detection
        self.model = ModelSection(detection, settings, downloads=services.downloads if owner else None)
        self.program = ProgramSection(service.programs, offered)
        self.picks = SidebarPicks(model=self.model, program=self.program, backend=self.backend, owner=owner)
        self.header = HeaderSection(self.picks)
        # Only the owner's browser can reach MLflow.
        mlflow_url = (lambda: mlflow.url) if owner else lambda: ""
        self.chat = Chat(service, self.picks, mlflow_url=mlflow_url)
        self.sidebar: list[Section] = [self.model, self.program, self.backend]
        self.views: list[Section] = []
        self.dialogs: list[Section] = []
        if owner:
            store, adapter = services.versions, settings.adapter
            self.versions = VersionsSection(store, mlflow, picks=self.picks, adapter=adapter)
            self.sidebar.append(self.versions)
            self.views.append(CompareSection(service, store, picks=self.picks, chat=self.chat))
            self.dialogs.append(ShareSection(services.tunnel))

    def draw(self) -> None:
        self._kept = gr.BrowserState(None, storage_key="dspy-demo-choices", secret=BROWSER_SECRET)
        with gr.Sidebar(width=304, elem_id="sidebar"):
            gr.HTML(f"<h1>{PRODUCT}</h1>", elem_id="product", padding=False)
            self._new_chat = gr.Button("New chat", elem_id="new-chat", size="sm")
            for section in self.sidebar:
                section.draw()
        with gr.Column(elem_id="main", elem_classes="" if self.picks.owner else "one-view"):
            for section in [self.header, *self.dialogs]:
                section.draw()
            with gr.Tabs(elem_id="views"):
                with gr.Tab("Chat", id="chat"):
                    self.header.draw_banner()
                    start = LocalTarget(self.program.first.name, self.model.detection.choice)
                    self.chat.draw(self.program.offered(), start)
                for view in self.views:
                    view.draw()

    def wire(self, demo: gr.Blocks) -> None:
        # Progress goes to every component that any event names for it, with each message of a stream; so all
        # events name the same one.
        quiet = {"api_visibility": "private", "show_progress": "hidden", "show_progress_on": self._kept}
        now: dict[str, Any] = {**quiet, "queue": False}
        self.chat.wire(demo, self._new_chat, now)
        for section in [self.header, *self.dialogs, *self.sidebar, *self.views]:
            section.wire(demo, now)
        self._keep_choices(demo, now)
        if self.picks.owner:
            act, connected = self.backend.act, self.backend.connected
            self.chat.widgets.notice.click(act, connected, self.backend.outputs, **now)
            for acted in self.versions.acted:
                self.chat.link_traces(acted, now)

    def _keep_choices(self, demo: gr.Blocks, now: dict[str, Any]) -> None:
        """A reload finds the choices as they were; see page.js."""
        pickers = {"program": self.program.picker, "backend": self.backend.switch}
        kept: dict[str, Component] = {**pickers, **self.model.kept}
        restored = {*pickers.values(), self.model.picker}
        demo.load(self.restore, self._kept, restored, js="(last) => chatPage.own('choices', last)", **now)
        # What is typed is restored without the server, whose answer might come after the next key.
        typed = {name: widget for name, widget in kept.items() if widget not in restored}
        js = f"(last, {', '.join(typed)}) => chatPage.typed(last, {{ {', '.join(typed)} }})"
        demo.load(None, [self._kept, *typed.values()], [*typed.values()], js=js, **now)
        changes, names = [widget.change for widget in kept.values()], ", ".join(kept)
        js = f"(kept, {names}) => chatPage.choose(kept, {{ {names} }})"
        gr.on(changes, None, [self._kept, *kept.values()], self._kept, js=js, **now)

    async def restore(self, kept: Any) -> Update:
        """A page has loaded: its pickers as they were before, where they can be so now."""
        given = kept if isinstance(kept, dict) else {}
        picks = self.model.pick(given.get("model")) | self.program.pick(given.get("program"))
        return picks | self.backend.pick(given.get("backend"))
