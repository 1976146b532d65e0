"""What happens in the Versions section: logging, and the actions of the list."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import AsyncIterator, Awaitable, Mapping
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component
from pydantic import SecretStr

from dspy_demo.errors import DemoError, InvalidInput
from dspy_demo.programs.registry import ProgramRegistry
from dspy_demo.serving.processes import ServerState, Wanted
from dspy_demo.settings import Settings
from dspy_demo.ui.actions import said
from dspy_demo.ui.asker import owner_only, visitor_of
from dspy_demo.ui.server_panel import SERVED, ServerHandlers
from dspy_demo.ui.sidebar import Sidebar
from dspy_demo.ui.tag_text import parse_tags
from dspy_demo.ui.version_panel import VersionPanel, head_html
from dspy_demo.ui.version_rows import Row, logged_html, message_html, opened_html, rows_html, title_of
from dspy_demo.ui.workbench import Workbench, sentence_of
from dspy_demo.versions.confidential import public_url
from dspy_demo.versions.version import LogRequest, Version

Update = dict[Component, Any]
#: How often a step of a slow action is shown.
STEP_S = 0.25


@dataclass(frozen=True, slots=True)
class VersionHandlers:
    """Every handler checks for itself who asks; see `owner_only`."""

    workbench: Workbench
    settings: Settings
    programs: ProgramRegistry
    sidebar: Sidebar
    panel: VersionPanel
    server: ServerHandlers

    @property
    def outputs(self) -> set[Component]:
        """All that an action may change."""
        panel, server = self.panel, self.server
        return {
            *(panel.head, panel.result, panel.list, panel.fold, panel.log, panel.description),
            *server.panel.outputs,
            *(self.sidebar.backend, self.sidebar.program),
        }

    @property
    def inputs(self) -> set[Component]:
        panel = self.panel
        return {*self.sidebar.inputs, panel.name, panel.description, panel.tags}

    async def log(self, given: dict[Component, Any], request: gr.Request) -> AsyncIterator[Update]:
        """**Log to MLflow**: the program and the model that are picked now."""
        panel = self.panel
        try:
            owner_only(request)
            wanted = LogRequest(
                given[panel.name] or "",
                given[self.sidebar.program],
                self.sidebar.choice(given),
                given[panel.description] or "",
                parse_tags(given[panel.tags] or ""),
            )
            yield {panel.log: gr.update(interactive=False)} | self._said("Logging…")
            async for step in self._opened():
                yield self._said(f"{step}…")
            logging = asyncio.create_task(asyncio.to_thread(self._log, wanted))
            if not (await asyncio.wait({logging}, timeout=STEP_S))[0]:
                checking = self._said("Checking that a new process can load it. This takes some seconds…")
                yield {panel.fold: gr.update(open=True)} | checking | await self._listed()
            version = await logging
            link = self._link(version)
            yield (
                {
                    panel.result: logged_html(version, link),
                    panel.log: gr.update(interactive=True),
                    panel.description: "",
                    panel.fold: gr.update(open=True),
                }
                | await self._listed(reveal=version.uri)
            )
        except Exception as error:
            yield {panel.log: gr.update(interactive=True)} | self._wrong(error)
            yield await self.refresh_open(request)

    def _log(self, request: LogRequest) -> Version:
        return self.workbench.store.log(request, self.programs, self.settings.adapter)

    async def refresh(self, request: gr.Request) -> Update:
        """The list as it is now, also after other tools changed it."""
        try:
            owner_only(request)
            return await self._listed()
        except Exception as error:
            return {self.panel.list: message_html(sentence_of(error), wrong=True)}

    async def refresh_open(self, request: gr.Request) -> Update:
        """The same, where the list was looked at already; else it would load MLflow for nobody."""
        if visitor_of(request).role == "owner" and self.workbench.store.ready:
            return await self.refresh(request)
        skip: Update = gr.skip()
        return skip

    async def act(
        self, event: gr.EventData, given: dict[Component, Any], request: gr.Request
    ) -> AsyncIterator[Update]:
        """One of the buttons in the list or in the heading."""
        told = said(event)
        do, uri = told.get("do", ""), told.get("uri", "")
        store = self.workbench.store
        try:
            owner_only(request)
            match do:
                case "refresh":
                    yield await self._listed() | self._said("")
                case "serve":
                    yield await self._serve(uri, given)
                case "chat":
                    yield {self.sidebar.backend: gr.update(value=SERVED, interactive=True)}
                case "promote":
                    version = await asyncio.to_thread(store.promote, uri)
                    yield self._said(f"{title_of(version.uri)} is the champion now.") | await self._listed()
                case "roll-back":
                    version = await asyncio.to_thread(store.roll_back, (await self._get(uri)).name)
                    yield (
                        self._said(
                            f"{title_of(version.uri)} is the champion again. Roll back once more to undo it."
                        )
                        | await self._listed()
                    )
                case "edit":
                    await asyncio.to_thread(self._edit, uri, told)
                    yield self._said("Saved.") | await self._listed()
                case "load":
                    yield self._said(f"Loading {title_of(uri)}…")
                    yield await self._load(uri)
                case "open":
                    async for step in self._open(uri):
                        yield step
        except Exception as error:
            yield self._wrong(error)

    # The actions

    async def _serve(self, uri: str, given: Mapping[Component, Any]) -> Update:
        version = await self._get(uri)
        if not version.servable:
            raise InvalidInput(version.reason)
        serving = self.server.serving
        wanted = Wanted(uri, version.lm, typed_key(version, self.sidebar, given))
        await serving.begin(serving.servers.serve(wanted))
        return self.server.drawn(None) | self._said("") | await self._listed()

    def _edit(self, uri: str, told: Mapping[str, str]) -> None:
        tags = parse_tags(told.get("tags", ""))
        self.workbench.store.describe(uri, told.get("description", ""))
        self.workbench.store.tag(uri, tags)

    async def _load(self, uri: str) -> Update:
        loaded = await asyncio.to_thread(self.workbench.store.load, uri)
        version = await self._get(uri)
        name = f"{version.name}-v{version.version}"
        spec = dataclasses.replace(
            loaded.spec, name=name, title=f"{version.name} v{version.version}", build=lambda: loaded.module
        )
        self.programs.add(spec, loaded.module)
        choices = [(known.title, known.name) for known in self.programs.specs()]
        text = (
            f"{spec.title} is picked under Program. It was logged with {loaded.lm.model}; "
            "here the model above answers."
        )
        return {self.sidebar.program: gr.update(choices=choices, value=name)} | self._said(text)

    async def _open(self, uri: str) -> AsyncIterator[Update]:
        """Start MLflow's pages; then the links are there."""
        steps = ["Starting MLflow"]
        async for step in _watched(self.workbench.pages.open(steps.append), steps):
            yield self._said(f"{step}…")
        link = self._link(await self._get(uri)) if uri else self.workbench.pages.url
        yield {self.panel.result: opened_html(link)} | await self._listed()

    # What is shown

    async def _listed(self, reveal: str = "") -> Update:
        rows, tracking_uri = await asyncio.to_thread(self._rows)
        return {
            self.panel.list: rows_html(rows, time.time(), tracking_uri, reveal),
            self.panel.head: head_html(self.workbench.pages.url),
        }

    def _rows(self) -> tuple[list[Row], str]:
        store = self.workbench.store
        versions = store.versions()
        previous = {v.name: store.previous_champion(v.name) for v in versions if v.champion}
        serving = _served_uris(self.workbench.servers.state())
        rows = [Row(v) for v in store.checking] + [
            Row(v, previous.get(v.name) if v.champion else None, self._link(v), serving.get(v.uri, ""))
            for v in versions
        ]
        uri = store.tracking_uri
        return rows, uri if uri.startswith("sqlite:") else public_url(uri) or ""

    def _link(self, version: Version) -> str:
        url = self.workbench.pages.url
        return self.workbench.store.link(version, url) if url else ""

    async def _get(self, uri: str) -> Version:
        return await asyncio.to_thread(self.workbench.store.get, uri)

    async def _opened(self) -> AsyncIterator[str]:
        """Open the store where it is not open yet; the steps of that."""
        steps: list[str] = []
        if not self.workbench.store.ready:
            async for step in _watched(asyncio.to_thread(self.workbench.store.prepare, steps.append), steps):
                yield step

    def _said(self, text: str) -> Update:
        return {self.panel.result: message_html(text) if text else ""}

    def _wrong(self, error: Exception) -> Update:
        return {self.panel.result: message_html(sentence_of(error), wrong=True)}


def typed_key(version: Version, sidebar: Sidebar, given: Mapping[Component, Any]) -> SecretStr | None:
    """A typed key is for the model that it was typed for, and for no other."""
    try:
        choice = sidebar.choice(given)
    except DemoError:
        return None
    return choice.api_key if choice.model == version.lm else None


async def _watched(action: Awaitable[Any], steps: list[str]) -> AsyncIterator[str]:
    """The latest of `steps` now and then, until `action` has ended; its failure is raised."""
    task = asyncio.ensure_future(action)
    shown = ""
    while not (await asyncio.wait({task}, timeout=STEP_S))[0]:
        if steps and steps[-1] != shown:
            shown = steps[-1]
            yield shown
    task.result()


def _served_uris(state: ServerState) -> dict[str, str]:
    """Which versions have a server, and in which phase it is."""
    states = [state, *([state.next] if state.next else [])]
    return {s.version: s.phase for s in states if s.phase in {"ready", "starting"}}
