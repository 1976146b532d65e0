"""The model server's state in the sidebar, and the address of another one."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component

from dspy_demo.backends.served import base_url
from dspy_demo.errors import DemoError, NotFound
from dspy_demo.events import ServedTarget
from dspy_demo.processes import ChildFailed
from dspy_demo.serving.processes import ModelServers, ServerState
from dspy_demo.settings import Settings
from dspy_demo.ui.actions import action_html, said
from dspy_demo.ui.asker import owner_only
from dspy_demo.ui.server_lines import Connected, server_html, spoken_html
from dspy_demo.ui.workbench import Workbench, sentence_of

Update = dict[Component, Any]

#: The two sides of the backend's switch.
LOCAL, SERVED = "Local", "Served"
#: Seconds between two looks while there is something to see: within one a crash is on the page.
LOOK_S = 1.0
HUNG = "The model server does not answer any more. Restart it, or choose the Local backend."
NOT_SERVED = "No version is served now. Choose Serve at a version, or the Local backend."


@dataclass(frozen=True, slots=True)
class OtherServer:
    """The form for a server that runs elsewhere."""

    address: gr.Textbox
    connect: gr.Button


@dataclass(frozen=True, slots=True)
class ServerPanel:
    """The widgets below the backend's switch.

    Attributes:
        other: None on the guests' page.
        connected: `Connected`, where this visitor uses a server at a typed address. Only handlers write it.
        seen: What the panel shows, so that a look that finds nothing new sends nothing.
        spoken: The state in words, unseen; its change is when what depends on the state is out of date.
            (A `gr.State` changes unnoticed where its event is not queued, gradio 6.31.)
    """

    state: gr.HTML
    other: OtherServer | None
    timer: gr.Timer
    connected: gr.State
    seen: gr.State
    spoken: gr.HTML

    @property
    def outputs(self) -> set[Component]:
        return {self.state, self.timer, self.connected, self.seen, self.spoken}


def draw_server_panel(*, owner: bool) -> ServerPanel:
    state = action_html(server_html(ServerState(), owner=owner), elem_id="server")
    other = _draw_other_server() if owner else None
    spoken = gr.HTML(elem_classes="sr")
    timer = gr.Timer(LOOK_S, active=False)
    return ServerPanel(state, other, timer, gr.State(), gr.State(""), spoken)


def _draw_other_server() -> OtherServer:
    with gr.Accordion("Another server…", open=False, elem_classes="options"):
        address = gr.Textbox(
            label="URL",
            placeholder="http://127.0.0.1:5001",
            info="A model server of this app, or any mlflow models serve.",
            max_lines=1,
            elem_id="server-url",
            html_attributes=gr.InputHTMLAttributes(autocomplete="off", spellcheck=False),
        )
        connect = gr.Button("Connect", size="sm", elem_id="connect", elem_classes="plain")
    return OtherServer(address, connect)


class Serving:
    """Starts of model servers that run beside the page, for all visitors of this app."""

    def __init__(self, servers: ModelServers) -> None:
        self.servers = servers
        self.trouble = ""
        self._running: set[asyncio.Task[None]] = set()

    @property
    def busy(self) -> bool:
        return bool(self._running)

    async def begin(self, action: Coroutine[Any, Any, Any]) -> None:
        """Run `action` on; `trouble` says why it failed, unless the server's own state does."""
        self.trouble = ""
        task = asyncio.create_task(self._run(action), name="serve-version")
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        await asyncio.wait({task}, timeout=0.1)  # long enough for the first state to show

    async def _run(self, action: Coroutine[Any, Any, Any]) -> None:
        try:
            await action
        except ChildFailed:
            pass  # the server's state tells it, with its log
        except Exception as error:
            self.trouble = sentence_of(error)


@dataclass(frozen=True, slots=True)
class ServedChoice:
    """What Served means for a visitor now. `program` is empty where the server does not tell."""

    target: ServedTarget
    program: str = ""


def served_choice(servers: ModelServers, connected: Connected | None) -> ServedChoice:
    """The server that answers: the one at a typed address, else the app's own.

    Raises:
        NotFound: There is none, or it is not ready.
    """
    if connected is not None:
        return ServedChoice(ServedTarget(connected.url, connected.info.version), connected.info.program)
    state = servers.state()
    if state.phase == "hung":
        raise NotFound(HUNG)
    if state.phase == "ready" and state.url:
        return ServedChoice(state.target, state.program)
    if state.phase == "failed":
        raise NotFound(f"{state.reason} Restart it, or choose the Local backend.")
    if state.phase == "starting":
        raise NotFound("The model server is still starting. Ask again in a moment.")
    raise NotFound(NOT_SERVED)


@dataclass(frozen=True, slots=True)
class ServerHandlers:
    """What happens in the panel.

    Attributes:
        backend: The switch, which needs something to switch to.
        owner: Whether the panel is on the owner's page, where there are buttons in it.
    """

    workbench: Workbench
    settings: Settings
    serving: Serving
    panel: ServerPanel
    backend: gr.Radio
    owner: bool = False

    async def look(self, connected: Connected | None, seen: str) -> Update:
        """A tick of the timer, or a page that has just loaded."""
        await self.workbench.servers.phase()
        drawn = self.drawn(connected)
        if drawn[self.panel.seen] == seen:
            skip: Update = gr.skip()
            return skip
        return drawn

    async def connect_first(self) -> Update:
        """The server of ``--served-url``, for every visitor."""
        if not self.settings.served_url:
            return self.drawn(None)
        return await self._connected(self.settings.served_url)

    async def connect(self, address: str, request: gr.Request) -> Update:
        """Use the server at a typed address."""
        try:
            owner_only(request)
        except DemoError as error:
            return self.drawn(None, error.public_message)
        return await self._connected(address)

    async def act(self, event: gr.EventData, connected: Connected | None, request: gr.Request) -> Update:
        """One of the buttons beside the state."""
        given, servers = said(event), self.workbench.servers
        try:
            owner_only(request)
            match given.get("do"):
                case "disconnect":
                    return self.drawn(None)
                case "restart":
                    await self.serving.begin(servers.restart())
                case "retry":
                    await self.serving.begin(servers.retry())
                case "stop" | "dismiss":
                    await self.serving.begin(servers.stop(given.get("uri")))
        except DemoError as error:
            return self.drawn(connected, error.public_message)
        return self.drawn(connected)

    def drawn(self, connected: Connected | None, trouble: str = "") -> Update:
        """The panel as it must look now."""
        state = self.workbench.servers.state()
        shown = server_html(state, connected, trouble or self.serving.trouble, owner=self.owner)
        phases = {state.phase, state.next.phase if state.next else state.phase}
        busy = self.serving.busy or bool(phases & {"starting", "stopping"})
        usable = connected is not None or state.phase != "none"
        return {
            self.panel.state: shown,
            self.panel.seen: shown,
            self.panel.connected: connected,
            self.panel.spoken: spoken_html(state, connected),
            self.panel.timer: gr.Timer(LOOK_S, active=busy or bool(phases & {"ready", "hung"})),
            self.backend: gr.update(interactive=True)
            if usable
            else gr.update(interactive=False, value=LOCAL),
        }

    async def _connected(self, address: str) -> Update:
        try:
            url = base_url(address)
            info = await self.workbench.served.probe(url)
        except DemoError as error:
            return self.drawn(None, error.public_message)
        return self.drawn(Connected(url, info))
