"""Versions: logging the program that is picked, and the list with its actions. Only on the owner's page."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import re
import shlex
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component
from pydantic import SecretStr

from dspy_demo.errors import DemoError, InvalidInput
from dspy_demo.serving.mlflow_ui import MLflowPages
from dspy_demo.serving.processes import Wanted
from dspy_demo.ui.chat.text import in_words
from dspy_demo.ui.components import (
    Update,
    action_html,
    clicked,
    lasting,
    message,
    owner_only,
    sentence_of,
    skip,
    template,
    title_of,
    visitor_of,
)
from dspy_demo.ui.sections.backend import SERVED
from dspy_demo.ui.sections.model import ModelSection
from dspy_demo.ui.sections.picks import SidebarPicks
from dspy_demo.versions.secrets import public_url
from dspy_demo.versions.store import VersionStore
from dspy_demo.versions.version import MODEL_NAME, LogRequest, Version

#: After so long an action is slow, and the page says what it does.
STEP_S = 0.25


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the list.

    Attributes:
        previous: The version that a roll back would bring; None where there is none.
        link: Its page in MLflow, or empty while MLflow's pages do not run.
        serving: The phase of a model server for it; empty where there is none.
    """

    version: Version
    previous: int | None = None
    link: str = ""
    serving: str = ""

    @property
    def what(self) -> str:
        return " · ".join(part for part in (in_words(self.version.program), self.version.lm) if part)


class VersionsSection:
    """The log form, and the list of all versions."""

    def __init__(
        self, store: VersionStore, mlflow: MLflowPages, *, picks: SidebarPicks, adapter: str
    ) -> None:
        self._store, self._mlflow, self._adapter = store, mlflow, adapter
        self._model, self._program, self._backend = picks.model, picks.program, picks.backend
        self._logging = asyncio.Lock()

    def draw(self) -> None:
        with gr.Column(elem_classes="section", elem_id="section-versions"):
            self.head = action_html(template("versions_head.html", mlflow_url=""), elem_id="versions-head")
            with gr.Accordion("Log this program", open=False, elem_classes="fold", elem_id="log-form"):
                self.name = gr.Textbox(MODEL_NAME, label="Model name", max_lines=1)
                self.description = gr.Textbox(
                    label="Description (optional)", lines=2, max_lines=6, placeholder="What is new in it?"
                )
                self.tags = gr.Textbox(
                    label="Tags (optional)", placeholder="team=search, tier=2", max_lines=6
                )
                gr.HTML(message("Logs the program and the model that are picked for Local."), padding=False)
                self.log_button = gr.Button("Log to MLflow", variant="primary", size="sm", elem_id="log")
            self.result = action_html(elem_id="log-result")
            with gr.Accordion(
                "All versions", open=False, elem_classes="fold", elem_id="versions"
            ) as self.fold:
                self.list = action_html('<p class="quiet">Looking…</p>', elem_id="version-list")

    def wire(self, demo: gr.Blocks, now: dict[str, Any]) -> None:
        queued = now | {"queue": True}
        listed = {self.list, self.head}
        self.log_button.click(self.log, self.inputs, self.outputs, **queued)
        self.fold.expand(self.refresh, None, listed, **now)
        self._backend.status.change(self.refresh_open, None, listed, **now)
        #: The events of the actions, for what depends on them.
        self.acted = [
            html.click(self.act, self.inputs, self.outputs, **queued)
            for html in (self.list, self.head, self.result)
        ]

    @property
    def inputs(self) -> set[Component]:
        return {*self._model.inputs, self._program.picker, self.name, self.description, self.tags}

    @property
    def outputs(self) -> set[Component]:
        """All that an action may change."""
        own = {self.head, self.result, self.list, self.fold, self.log_button, self.description}
        return {*own, *self._backend.outputs, self._program.picker}

    async def log(self, given: dict[Component, Any], request: gr.Request) -> AsyncIterator[Update]:
        """**Log to MLflow**: the program and the model picked now. Two quick clicks make one version."""
        if self._logging.locked():
            yield skip()
            return
        async with self._logging:
            try:
                owner_only(request)
                wanted = self._request(given)
                yield {self.log_button: gr.update(interactive=False), self.result: message("Logging…")}
                logging = asyncio.to_thread(self._store.log, wanted, self._program.registry, self._adapter)
                task = asyncio.create_task(logging)
                if not (await asyncio.wait({task}, timeout=STEP_S))[0]:
                    text = "Logging, and checking that a new process can load it. This takes some seconds…"
                    yield {self.fold: gr.update(open=True), self.result: message(text)} | await self._listed()
                version = await task
                logged = message(f"Logged {title_of(version.uri)}.", link=self._link(version))
                done = {self.result: logged, self.description: "", self.fold: gr.update(open=True)}
                yield done | await self._listed(reveal=version.uri)
            except Exception as error:
                yield {self.result: message(sentence_of(error), wrong=True)}
                yield await self.refresh_open(request)
        yield {self.log_button: gr.update(interactive=True)}

    def _request(self, given: Mapping[Component, Any]) -> LogRequest:
        return LogRequest(
            given[self.name] or "",
            given[self._program.picker],
            self._model.choice(given),
            given[self.description] or "",
            parse_tags(given[self.tags] or ""),
        )

    async def refresh(self, request: gr.Request) -> Update:
        """The list as it is now, also after other tools changed it."""
        try:
            owner_only(request)
            return await self._listed()
        except Exception as error:
            return {self.list: message(sentence_of(error), wrong=True)}

    async def refresh_open(self, request: gr.Request) -> Update:
        """The same, where the list was looked at before; else it would load MLflow for nothing."""
        owner = visitor_of(request).role == "owner"
        return await self.refresh(request) if owner and self._store.tracking.ready else skip()

    async def act(
        self, event: gr.EventData, given: dict[Component, Any], request: gr.Request
    ) -> AsyncIterator[Update]:
        """One of the buttons in the list, in the heading, or after an action."""
        uri = clicked(event, "uri")
        try:
            owner_only(request)
            match clicked(event):
                case "load":
                    yield {self.result: message(f"Loading {title_of(uri)}…")}
                    yield await self._load(uri)
                case "open":
                    yield {self.result: message("Starting MLflow. This takes some seconds…")}
                    yield await self._open(uri)
                case "serve":
                    yield await self._serve(uri, given) | await self._listed()
                case "chat":
                    yield {self._backend.switch: gr.update(value=SERVED, interactive=True)}
                case do:
                    yield await self._change(do, uri, event) | await self._listed()
        except Exception as error:
            yield {self.result: message(sentence_of(error), wrong=True)}

    async def _change(self, do: str, uri: str, event: gr.EventData) -> Update:
        """An action that changes the registry, or looks at it anew."""
        store, text = self._store, ""
        match do:
            case "promote":
                await asyncio.to_thread(store.promote, uri)
                text = f"{title_of(uri)} is champion now."
            case "roll-back":
                version = await asyncio.to_thread(store.roll_back, (await self._get(uri)).name)
                text = f"{title_of(version.uri)} is champion again."
                return {self.result: message(text, undo=version.uri)}
            case "edit":
                tags = parse_tags(clicked(event, "tags"))
                await asyncio.to_thread(store.edit, uri, clicked(event, "description"), tags)
                text = "Saved."
        return {self.result: message(text)}

    async def _serve(self, uri: str, given: Mapping[Component, Any]) -> Update:
        wanted = wanted_server(await self._get(uri), self._model, given)
        await self._backend.begin(self._backend.servers.serve(wanted))
        return self._backend.drawn(None) | {self.result: ""}

    async def _load(self, uri: str) -> Update:
        """Make a version one of the programs of this process."""
        loaded = await asyncio.to_thread(self._store.load, uri)
        version = await self._get(uri)
        name, title = f"{version.name}-v{version.version}", title_of(version.uri)
        spec = dataclasses.replace(loaded, name=name, title=title)
        self._program.registry.add(spec, spec.build())
        text = f"Now using {title} with your current model."
        return self._program.pick(name) | {self.result: message(text)}

    async def _open(self, uri: str) -> Update:
        """Start MLflow's pages and link to them: browsers block windows that open so long after a click."""
        url = await self._mlflow.open()
        link = self._link(await self._get(uri)) if uri else url
        return {self.result: message("MLflow is running.", link=link)} | await self._listed()

    async def _listed(self, reveal: str = "") -> Update:
        rows, tracking_uri = await asyncio.to_thread(self._rows)
        return {
            self.list: rows_html(rows, tracking_uri, reveal=reveal),
            self.head: template("versions_head.html", mlflow_url=self._mlflow.url),
        }

    def _rows(self) -> tuple[list[Row], str]:
        store = self._store
        versions = store.versions()
        previous = {v.name: store.previous_champion(v.name) for v in versions if v.champion}
        state = self._backend.servers.state()
        serving = {one.version: one.phase for one in (state, state.next) if one}
        rows = [Row(v) for v in store.checking] + [
            Row(v, previous.get(v.name) if v.champion else None, self._link(v), serving.get(v.uri, ""))
            for v in versions
        ]
        uri = store.tracking.uri
        return rows, uri if uri.startswith("sqlite:") else public_url(uri) or ""

    def _link(self, version: Version) -> str:
        url = self._mlflow.url
        return self._store.link(version, url) if url else ""

    async def _get(self, uri: str) -> Version:
        return await asyncio.to_thread(self._store.get, uri)


def wanted_server(version: Version, model: ModelSection, given: Mapping[Component, Any]) -> Wanted:
    """What to start for a version. A typed key is for the model that it was typed for, and for no other.

    Raises:
        InvalidInput: It cannot be served; the sentence says why.
    """
    if not version.servable:
        raise InvalidInput(version.reason)
    key: SecretStr | None = None
    try:
        choice = model.choice(given)
        key = choice.api_key if choice.model == version.lm else None
    except DemoError:
        pass
    return Wanted(version.uri, version.lm, key)


def rows_html(rows: list[Row], tracking_uri: str, *, reveal: str = "", now_s: float | None = None) -> str:
    """The list, newest first.

    Args:
        tracking_uri: For the commands to copy; without a password in it.
        reveal: The URI of a version to open.
        now_s: Seconds since 1970; the current time by default.
    """
    now_s = time.time() if now_s is None else now_s

    def ago(created_at: float) -> str:
        age = lasting(now_s - created_at)
        return f"{age} ago" if age else "just now"

    return template(
        "versions.html",
        rows=rows,
        reveal=reveal,
        ago=ago,
        tags_of=lambda version: [f"{key}={value}" for key, value in sorted(version.tags.items())],
        commands=lambda version: commands(version, tracking_uri),
    )


def commands(version: Version, tracking_uri: str) -> dict[str, str]:
    """How to serve and ask a version from a shell."""
    uri, store = shlex.quote(version.uri), shlex.quote(tracking_uri)
    example = {"text": "What is 2 + 2?"}
    messages = {"messages": [{"role": "user", "content": example["text"]}]}
    as_json = "-H 'Content-Type: application/json' -d"
    return {
        "Serve, with live tokens": f"python -m dspy_demo.serving {uri} --port 5001 --tracking-uri {store}",
        "Ask": f"curl -N http://127.0.0.1:5001/predict/stream {as_json} {shlex.quote(json.dumps(example))}",
        "Serve with MLflow alone": (
            f"MLFLOW_TRACKING_URI={store} mlflow models serve -m {uri} --env-manager local --port 5001"
        ),
        "Ask that": f"curl http://127.0.0.1:5001/invocations {as_json} {shlex.quote(json.dumps(messages))}",
    }


def parse_tags(text: str) -> dict[str, str]:
    """Tags as somebody types them: ``team=search, tier=2``, or one in a line.

    A comma only parts two tags where ``key=`` follows, so that a value may hold one.

    Raises:
        InvalidInput: A part has no “=”, or a key comes twice.
    """
    tags: dict[str, str] = {}
    for part in re.split(r"\n|,(?=[^,=\n]*=)", text):
        part = part.strip().strip(",").strip()
        if not part:
            continue
        key, equals, value = part.partition("=")
        key = key.strip()
        if not equals or not key:
            raise InvalidInput(f"Write the tag “{part[:40]}” as key=value, for example team=search.")
        if key in tags:
            raise InvalidInput(f"The tag “{key[:40]}” is there twice. Keep one of them.")
        tags[key] = value.strip()
    return tags
