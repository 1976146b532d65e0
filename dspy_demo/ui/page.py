"""The page of a role. A new section is a class with `draw` and `wire`, and one line in `PageOf`."""

from typing import Any

import gradio as gr

from dspy_demo.events import LocalTarget
from dspy_demo.guests.allowance import Allowance
from dspy_demo.programs.spec import ProgramSpec
from dspy_demo.ui import gradio_bridge
from dspy_demo.ui.chat.section import Chat
from dspy_demo.ui.components import Section, Services, Update
from dspy_demo.ui.sections.backend import BackendSection
from dspy_demo.ui.sections.compare import CompareSection
from dspy_demo.ui.sections.model import ModelSection
from dspy_demo.ui.sections.picks import Picks, ProgramSection
from dspy_demo.ui.sections.share import ShareSection
from dspy_demo.ui.sections.versions import VersionsSection

PRODUCT = "DSPy demo"


def build_page(services: Services, *, guests: Allowance | None = None) -> gr.Blocks:
    """The page of a role, to be shown by `ui.pages`; with `guests`, theirs."""
    whole = {"fill_height": True, "fill_width": True}
    with gradio_bridge.Page(title=PRODUCT, analytics_enabled=False, **whole) as demo:
        page = PageOf(services, guests)
        page.draw()
        page.wire(demo)
    gradio_bridge.queue(demo, turns=services.settings.max_turns)
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
        self.picks = Picks(model=self.model, program=self.program, backend=self.backend, owner=owner)
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
        # The browser encrypts with the secret what only it holds; it must be the same after a restart.
        stored = {"storage_key": "dspy-demo-choices", "secret": "dspy-demo-chat-1"}
        self._kept = gr.BrowserState(None, **stored)
        with gr.Sidebar(width=304, elem_id="sidebar"):
            gr.HTML(f"<h1>{PRODUCT}</h1>", elem_id="product", padding=False)
            self._new_chat = gr.Button("New chat", elem_id="new-chat", size="sm")
            for section in self.sidebar:
                section.draw()
        with gr.Column(elem_id="main", elem_classes="" if self.picks.owner else "one-view"):
            for section in [self.picks, *self.dialogs]:
                section.draw()
            with gr.Tabs(elem_id="views"):
                with gr.Tab("Chat", id="chat"):
                    self.picks.draw_banner()
                    start = LocalTarget(self.program.first.name, self.model.detection.choice)
                    self.chat.draw(self.program.offered(), start)
                for view in self.views:
                    view.draw()

    def wire(self, demo: gr.Blocks) -> None:
        # Each message of a stream reports progress to all components that events name for it: so to one.
        quiet = {"api_visibility": "private", "show_progress": "hidden", "show_progress_on": self._kept}
        now: dict[str, Any] = {**quiet, "queue": False}
        self.chat.wire(demo, self._new_chat, now)
        for section in [self.picks, *self.dialogs, *self.sidebar, *self.views]:
            section.wire(demo, now)
        self._keep_choices(demo, now)
        if self.picks.owner:
            act, connected = self.backend.act, self.backend.connected
            self.chat.widgets.notice.click(act, connected, self.backend.outputs, **now)
            for acted in self.versions.acted:
                self.chat.link_traces(acted, now)

    def _keep_choices(self, demo: gr.Blocks, now: dict[str, Any]) -> None:
        """A reload finds the choices as they were; see page.js."""
        pickers = {"program": self.program.picker, "backend": self.backend.switch, "model": self.model.picker}
        # What is typed is restored without the server, whose answer might come after the next key.
        typed = self.model.kept
        kept = pickers | typed
        restored, fields = [*pickers.values()], [*typed.values()]
        demo.load(self.restore, self._kept, restored, js="(last) => chatPage.own('choices', last)", **now)
        js = f"(last, {', '.join(typed)}) => chatPage.typed(last, {{ {', '.join(typed)} }})"
        demo.load(None, [self._kept, *fields], fields, js=js, **now)
        js = f"(kept, {', '.join(kept)}) => chatPage.choose(kept, {{ {', '.join(kept)} }})"
        changes = [widget.change for widget in kept.values()]
        gr.on(changes, None, [self._kept, *kept.values()], self._kept, js=js, **now)

    async def restore(self, kept: Any) -> Update:
        """A page has loaded: its pickers as they were before, where they can be so now."""
        given = kept if isinstance(kept, dict) else {}
        picks = self.model.pick(given.get("model")) | self.program.pick(given.get("program"))
        return picks | self.backend.pick(given.get("backend"))
