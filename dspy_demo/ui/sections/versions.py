"""Versions: logging the program that is picked, and the list with its actions. Only on the owner's page."""

import asyncio
import dataclasses
import re
import shlex
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import gradio as gr
from gradio.components import Component

from dspy_demo.errors import InvalidInput
from dspy_demo.mlflow_bridge import version_url
from dspy_demo.serving.mlflow_ui import MLflowPages
from dspy_demo.serving.processes import Wanted
from dspy_demo.ui import components as ui
from dspy_demo.ui.chat.text import in_words
from dspy_demo.ui.components import Given, Update
from dspy_demo.ui.sections.backend import SERVED
from dspy_demo.ui.sections.model import ModelSection
from dspy_demo.ui.sections.picks import Picks
from dspy_demo.versions.secrets import public_url
from dspy_demo.versions.store import VersionStore
from dspy_demo.versions.version import MODEL_NAME, LogRequest, Version


class VersionsSection:
    def __init__(self, store: VersionStore, mlflow: MLflowPages, *, picks: Picks, adapter: str) -> None:
        self._store, self._mlflow, self._adapter = store, mlflow, adapter
        self._model, self._program, self._backend = picks.model, picks.program, picks.backend
        self._logging = asyncio.Lock()

    def draw(self) -> None:
        fold = {"open": False, "elem_classes": "fold"}
        with gr.Column(elem_classes="section", elem_id="section-versions"):
            self.head = ui.action_html(self._head_html(), elem_id="versions-head")
            with gr.Accordion("Log this program", elem_id="log-form", **fold):
                self.name = ui.line("Model name", value=MODEL_NAME)
                label, placeholder = "Description (optional)", "What is new in it?"
                self.description = gr.Textbox(label=label, lines=2, max_lines=6, placeholder=placeholder)
                self.tags = ui.line("Tags (optional)", "team=search, tier=2")
                gr.HTML(ui.message("Logs the program and the model picked for Local."), padding=False)
                self.log_button = gr.Button("Log to MLflow", variant="primary", size="sm", elem_id="log")
            self.result = ui.action_html(elem_id="log-result")
            with gr.Accordion("All versions", elem_id="versions", **fold) as self.fold:
                self.list = ui.action_html('<p class="quiet">Looking…</p>', elem_id="version-list")

    def wire(self, demo: gr.Blocks, now: dict[str, Any]) -> None:
        queued, listed = now | {"queue": True}, {self.list, self.head}
        own = {self.head, self.result, self.list, self.fold, self.log_button, self.description}
        inputs = {*self._model.inputs, self._program.picker, self.name, self.description, self.tags}
        outputs = {*own, *self._backend.outputs, self._program.picker}
        self.log_button.click(self.log, inputs, outputs, **queued)
        self.fold.expand(self.refresh, None, listed, **now)
        self._backend.status.change(self.refresh_open, None, listed, **now)
        places = (self.list, self.head, self.result)
        self.acted = [place.click(self.act, inputs, outputs, **queued) for place in places]

    async def log(self, given: dict[Component, Any], request: gr.Request) -> AsyncIterator[Update]:
        """**Log to MLflow**: the program and the model picked now. Two quick clicks make one version."""
        if self._logging.locked() or not ui.is_owner(request):
            yield ui.skip()
            return
        async with self._logging:
            text = "Logging, and checking that a new process can load it. This takes some seconds…"
            yield {self.log_button: gr.update(interactive=False), self.result: ui.message(text)}
            try:
                description, tags = given[self.description] or "", parse_tags(given[self.tags] or "")
                what = given[self.name] or "", given[self._program.picker], self._model.choice(given)
                wanted, registry = LogRequest(*what, description, tags), self._program.registry
                version = await asyncio.to_thread(self._store.log, wanted, registry, self._adapter)
                logged = ui.message(f"Logged {ui.title_of(version.uri)}.", link=self._link(version))
                shown = {self.result: logged, self.description: "", self.fold: gr.update(open=True)}
                yield shown | await self._listed()
            except Exception as error:
                yield {self.result: ui.message(ui.sentence_of(error), wrong=True)}
        yield {self.log_button: gr.update(interactive=True)}

    async def refresh(self, request: gr.Request) -> Update:
        """The list as it is now, also after other tools changed it."""
        try:
            return await self._listed() if ui.is_owner(request) else ui.skip()
        except Exception as error:
            return {self.list: ui.message(ui.sentence_of(error), wrong=True)}

    async def refresh_open(self, request: gr.Request) -> Update:
        """The same, where the list was looked at before; else it would load MLflow for nothing."""
        seen = ui.is_owner(request) and self._store.tracking.ready
        return await self.refresh(request) if seen else ui.skip()

    async def act(
        self, event: gr.EventData, given: dict[Component, Any], request: gr.Request
    ) -> AsyncIterator[Update]:
        if not ui.is_owner(request):
            yield ui.skip()
            return
        try:
            slow = {"open": "Starting MLflow. This takes some seconds…", "load": "Loading…"}
            yield {self.result: ui.message(slow.get(ui.clicked(event), ""))}
            yield await self._act(event, given) | await self._listed()
        except Exception as error:
            yield {self.result: ui.message(ui.sentence_of(error), wrong=True)}

    async def _act(self, event: gr.EventData, given: Given) -> Update:
        do, uri, text, undo, more = ui.clicked(event), ui.clicked(event, "uri"), "", "", Update()
        match do:
            case "open":  # with a link: browsers block windows that open so long after a click
                return {self.result: ui.message("MLflow is running.", link=await self._mlflow.open())}
            case "refresh" | "":
                return {}
        version, title = await asyncio.to_thread(self._store.get, uri), ui.title_of(uri)
        match do:
            case "load":
                loaded = await asyncio.to_thread(self._store.load, uri)
                spec = dataclasses.replace(loaded, name=f"{version.name}-v{version.version}", title=title)
                self._program.registry.add(spec, spec.build())
                text, more = f"Now using {title} with your current model.", self._program.pick(spec.name)
            case "serve":
                wanted = wanted_server(version, self._model, given)
                await self._backend.begin(self._backend.servers.serve(wanted))
                more = self._backend.drawn(None)
            case "chat":
                more = {self._backend.switch: gr.update(value=SERVED, interactive=True)}
            case "promote":
                await asyncio.to_thread(self._store.promote, uri)
                text = f"{title} is champion now."
            case "roll-back":
                version = await asyncio.to_thread(self._store.roll_back, version.name)
                text, undo = f"{ui.title_of(version.uri)} is champion again.", version.uri
            case "edit":
                tags = parse_tags(ui.clicked(event, "tags"))
                await asyncio.to_thread(self._store.edit, uri, ui.clicked(event, "description"), tags)
                text = "Saved."
        return {self.result: ui.message(text, undo=undo)} | more

    async def _listed(self) -> Update:
        return {self.list: await asyncio.to_thread(self._list_html), self.head: self._head_html()}

    def _list_html(self) -> str:
        store, state, versions = self._store, self._backend.servers.state(), self._store.versions()
        previous = {v.uri: store.previous_champion(v.name) for v in versions if v.champion}
        serving = {one.version: one.phase for one in (state, state.next) if one}
        shown = {"previous": previous, "serving": serving, "link": self._link}
        return versions_html(versions, store.tracking.uri, **shown)

    def _head_html(self) -> str:
        return ui.template("versions_head.html", mlflow_url=self._mlflow.url)

    def _link(self, version: Version) -> str:
        return version_url(self._mlflow.url, version.name, version.version) if self._mlflow.url else ""


def wanted_server(version: Version, model: ModelSection, given: Given) -> Wanted:
    """What to start for a version. A typed key is for the model that it was typed for, and for no other."""
    if not version.servable:
        raise InvalidInput(version.reason)
    choice = model.choice(given)
    return Wanted(version.uri, version.lm, choice.api_key if choice.model == version.lm else None)


def versions_html(versions: Sequence[Version], tracking_uri: str, **shown: Any) -> str:
    """The list, newest first; `shown` has by URI what a roll back brings and the phase of its server."""

    def ago(created_at: float) -> str:
        for length_s, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
            if (age := int((time.time() - created_at) // length_s)) > 0:
                return f"{age} {unit} ago"
        return "just now"

    shown |= {"ago": ago, "in_words": in_words, "commands": lambda version: commands(version, tracking_uri)}
    return ui.template("versions.html", versions=versions, **shown)


def commands(version: Version, tracking_uri: str) -> dict[str, str]:
    """How to serve and ask a version from a shell; a password in the store's address is left out."""
    shown = tracking_uri if tracking_uri.startswith("sqlite:") else public_url(tracking_uri) or ""
    uri, store, body = shlex.quote(version.uri), shlex.quote(shown), '{"text": "What is 2 + 2?"}'
    alone = f"mlflow models serve -m {uri} --env-manager local --port 5001"
    ask = "curl -N http://127.0.0.1:5001/predict/stream -H 'Content-Type: application/json'"
    return {
        "Serve, with live tokens": f"python -m dspy_demo.serving {uri} --port 5001 --tracking-uri {store}",
        "Ask": f"{ask} -d {shlex.quote(body)}",
        "Serve with MLflow alone": f"MLFLOW_TRACKING_URI={store} {alone}",
    }


def parse_tags(text: str) -> dict[str, str]:
    """Tags as somebody types them: ``team=search, tier=2``, or one in a line; a value may hold a comma."""
    parts = [part.strip(" ,") for part in re.split(r"\n|,(?=[^,=\n]*=)", text)]
    pairs = [part.partition("=") for part in parts if part]
    for key, equals, _ in pairs:
        if not equals or not key.strip():
            raise InvalidInput(f"Write the tag “{key[:40]}” as key=value, for example team=search.")
    return {key.strip(): value.strip() for key, _, value in pairs}
