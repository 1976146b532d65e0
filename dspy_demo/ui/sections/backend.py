"""Local or Served: where turns run, the state of the model server, and the address of another one."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component

from dspy_demo.backends.served import ServedBackend
from dspy_demo.backends.served_wire import ServerInfo, base_url
from dspy_demo.errors import NotFound
from dspy_demo.events import ServedTarget
from dspy_demo.processes import ChildFailed
from dspy_demo.serving.processes import ModelServers, ServerState
from dspy_demo.settings import Settings
from dspy_demo.ui import components as ui
from dspy_demo.ui.components import Given, Update

LOCAL, SERVED = "Local", "Served"


@dataclass(frozen=True, slots=True)
class Connected:
    """A server, and what it says of itself."""

    url: str
    info: ServerInfo

    @property
    def title(self) -> str:
        return ui.title_of(self.info.version) if self.info.version else self.url


class BackendSection:
    """The switch, and the model server with its buttons; guests only see it. All start at `first_url`."""

    def __init__(self, servers: ModelServers, served: ServedBackend, *, first_url: str, owner: bool) -> None:
        self.servers, self._served, self._first_url, self._owner = servers, served, first_url, owner
        self._running: set[asyncio.Task[None]] = set()

    def draw(self) -> None:
        with ui.section("Backend"):
            off: dict[str, Any] = {"show_label": False, "interactive": False}
            self.switch = gr.Radio([LOCAL, SERVED], value=LOCAL, label="Backend", elem_id="backend", **off)
            self.panel = ui.action_html(server_html(ServerState(), owner=self._owner), elem_id="server")
            if self._owner:
                with gr.Accordion("Connect to a server", open=False, elem_classes="fold"):
                    info = "A model server of this app, or any mlflow models serve."
                    self.address = ui.line("URL", "http://127.0.0.1:5001", info=info, elem_id="server-url")
                    self.connect_button = gr.Button("Connect", size="sm")
            #: The state for a screen reader; what depends on the state listens to its change.
            self.status = gr.HTML(elem_classes="sr", padding=False)
        #: `Connected`, where this visitor uses a server at a typed address. Only handlers write it.
        self.connected = gr.State()
        self.timer = gr.Timer(1.0, active=False)
        self.outputs: set[Component] = {self.panel, self.timer, self.connected, self.status, self.switch}

    def wire(self, demo: gr.Blocks, now: dict[str, Any]) -> None:
        demo.load(self.connect_first, None, self.outputs, **now)
        self.timer.tick(self.look, [self.connected, self.panel], self.outputs, **now)
        if self._owner:
            self.panel.click(self.act, self.connected, self.outputs, **now)
            events = [self.connect_button.click, self.address.submit]
            gr.on(events, self.connect, self.address, self.outputs, **now)

    async def look(self, connected: Connected | None, shown: str) -> Update:
        await self.servers.phase()
        return ui.if_new(self.drawn(connected), self.panel, shown)

    async def connect_first(self) -> Update:
        return await self._connected(self._first_url) if self._first_url else self.drawn(None)

    async def connect(self, address: str, request: gr.Request) -> Update:
        return await self._connected(address) if ui.is_owner(request) else ui.skip()

    async def _connected(self, address: str) -> Update:
        try:
            url = base_url(address)
            return self.drawn(Connected(url, await self._served.probe(url)))
        except Exception as error:
            return self.drawn(None, ui.sentence_of(error))

    async def act(self, event: gr.EventData, connected: Connected | None, request: gr.Request) -> Update:
        if not ui.is_owner(request):
            return ui.skip()
        match ui.clicked(event):
            case "disconnect":
                connected = None
            case "restart":
                await self.begin(self.servers.again(ui.clicked(event, "uri")))
            case "stop":
                await self.begin(self.servers.stop(ui.clicked(event, "uri") or None))
        return self.drawn(connected)

    async def begin(self, action: Coroutine[Any, Any, Any]) -> None:
        """Run `action` on beside the page, for all visitors; the panel says what becomes of it."""

        async def run() -> None:
            with contextlib.suppress(ChildFailed):  # the server's state says it, with its log
                await action

        task = asyncio.create_task(run(), name="serve-version")
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        await asyncio.wait({task}, timeout=0.1)  # long enough for the first state to show

    def drawn(self, connected: Connected | None, trouble: str = "") -> Update:
        state = self.servers.state()
        moving = state.phase in {"starting", "stopping", "ready", "hung"} or self._running or state.next
        usable = connected is not None or state.phase != "none"
        return {
            self.panel: server_html(state, connected, trouble, owner=self._owner),
            self.connected: connected,
            self.status: status_html(state, connected),
            self.timer: gr.Timer(active=bool(moving)),
            self.switch: gr.update(interactive=True) if usable else gr.update(interactive=False, value=LOCAL),
        }

    def pick(self, side: object) -> Update:
        served = side == SERVED and self.servers.state().phase == "ready"
        return {self.switch: SERVED if served else LOCAL}

    def serving(self, given: Given) -> Connected | None:
        """What answers in place of the picked model and program, if anything does."""
        if given[self.switch] != SERVED:
            return None
        state = self.servers.state()
        own = ServerInfo("live", state.version, lm=state.lm, program=state.program)
        return given[self.connected] or Connected(state.url or "", own)


def guest_urls(servers: ModelServers, settings: Settings) -> Callable[[], set[str]]:
    """The servers that a guest's turn may go to: the app's own, and the one of ``--served-url``."""
    fixed = {base_url(settings.served_url)} if settings.served_url else set()
    return lambda: fixed | {url for url in [servers.state().url] if url}


def served_choice(servers: ModelServers, connected: Connected | None) -> tuple[ServedTarget, str]:
    """The server that answers and its program, where it says so; `NotFound` where none is ready."""
    if connected is not None:
        return ServedTarget(connected.url, connected.info.version), connected.info.program
    state = servers.state()
    if state.phase == "ready":
        return state.target, state.program
    if state.phase in {"none", "stopped"}:
        raise NotFound("No model server is running. Choose Serve at a version, or Local.")
    reason = state.reason or "The model server does not answer."
    raise NotFound(f"{reason} Wait a moment, restart it, or choose Local.")


def picker_or_fixed(picker: gr.Column, fixed: gr.HTML, serving: Connected | None, *, value: str) -> Update:
    """Show what a section picks, or `value` where a served version has set it."""
    html = ui.template("fixed.html", value=value, version=serving.title) if serving else ""
    return {picker: gr.update(visible=not html), fixed: gr.update(visible=bool(html), value=html)}


def server_html(
    state: ServerState, connected: Connected | None = None, trouble: str = "", *, owner: bool = True
) -> str:
    """The state of the servers; `trouble` is why the last action did not work."""
    words = {"title_of": ui.title_of, "trouble": trouble, "owner": owner}
    return ui.template("backend.html", state=state, connected=connected, **words)


def status_html(state: ServerState, connected: Connected | None = None) -> str:
    """What a screen reader says: it changes with the state, not with the time."""
    words = [f"Connected to {connected.title}."] if connected else []
    for server in (state, state.next):
        if server is not None and server.phase != "none":
            words.append(f"Model server {ui.title_of(server.version)}: {server.phase}. {server.reason}")
    return ui.message(" ".join(words))
