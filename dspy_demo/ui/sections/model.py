"""The language model: the picker, the fields of another one, the settings, and models to download."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import gradio as gr
from gradio.components import Component
from pydantic import SecretStr

from dspy_demo.errors import Forbidden, InvalidInput, NotFound
from dspy_demo.events import LMChoice
from dspy_demo.lm.choices import Detection, LMOption, Offer
from dspy_demo.lm.local.download import Downloads, DownloadState, size_text
from dspy_demo.lm.local.files import PREFIX, remove
from dspy_demo.lm.local.runtime import INSTALL_LINE, runtime_installed
from dspy_demo.settings import Settings
from dspy_demo.ui.components import (
    Update,
    action_html,
    clicked,
    if_new,
    message,
    section,
    sentence_of,
    skip,
    template,
    visitor_of,
)
from dspy_demo.ui.sections.backend import BackendSection, Connected, picker_or_fixed

OTHER = "other"
#: Seconds between two looks while a model is on its way.
LOOK_S = 1.0
ROW_MAX_CHARS = 30
N = TypeVar("N", int, float)


class ModelSection:
    """What answers locally.

    Args:
        detection: The model to start with, and the others on offer.
        downloads: Only for the owner's page, which can also name a model that is not on offer.
    """

    def __init__(
        self,
        detection: Detection,
        settings: Settings,
        backend: BackendSection,
        *,
        downloads: Downloads | None,
    ) -> None:
        self.detection = detection
        self.offer = Offer(detection)
        self._settings = settings
        self._backend = backend
        self._downloads = downloads
        self.typed: list[Component] = []

    def draw(self) -> None:
        with section("Model"):
            self.fixed = gr.HTML(visible=False, elem_classes="fixed", padding=False)
            with gr.Column(elem_classes="picker") as self.group:
                rows = picker_rows(self.detection.options, owner=self._downloads is not None)
                self.picker = gr.Dropdown(
                    rows,
                    value=picked_id(self.detection),
                    label="Model",
                    show_label=False,
                    elem_id="model",
                    filterable=False,
                )
                reason = self.detection.reason
                self.reason = gr.HTML(
                    message(reason), visible=bool(reason), elem_classes="own", padding=False
                )
                if self._downloads is not None:
                    self._draw_typed()
                    self._draw_downloads()
                self._draw_settings()

    def _draw_typed(self) -> None:
        with gr.Column(visible=False, elem_classes="fields") as self.typed_group:
            self.typed_model = gr.Textbox(
                label="Model",
                placeholder="openai/gpt-4o-mini",
                info="provider/name, as in LiteLLM",
                max_lines=1,
            )
            self.api_base = gr.Textbox(
                label="Base URL (optional)", placeholder="http://localhost:8000/v1", max_lines=1
            )
            self.api_key = gr.Textbox(
                label="API key (optional)",
                info="Not saved. Sent only to this provider.",
                type="password",
                html_attributes=gr.InputHTMLAttributes(autocomplete="off", spellcheck=False),
            )
        self.typed = [self.typed_model, self.api_base, self.api_key]

    def _draw_downloads(self) -> None:
        opened = self.detection.demo
        title = "Download a small model"
        with gr.Accordion(title, open=opened, elem_classes="fold", elem_id="models") as self.fold:
            self.list = action_html('<p class="quiet">Looking…</p>', elem_id="model-list")
        self.status = gr.HTML(elem_classes="sr", padding=False)
        self.timer = gr.Timer(LOOK_S, active=False)

    def _draw_settings(self) -> None:
        start = self.detection.choice
        with gr.Accordion("Generation settings", open=False, elem_classes="fold"):
            # Not gr.Number: there an empty field is 0, which is a temperature.
            self.temperature = gr.Textbox(
                _shown(start.temperature), label="Temperature", placeholder="Model default"
            )
            self.max_tokens = gr.Textbox(
                _shown(start.max_tokens), label="Max tokens", placeholder="Model default"
            )
            self.cache = gr.Checkbox(start.cache, label="Use cached answers")

    def wire(self, demo: gr.Blocks, now: dict[str, Any]) -> None:
        backend = self._backend
        events = [self.picker.change, backend.switch.change, backend.status.change]
        inputs = [self.picker, backend.switch, backend.connected]
        shown = {self.reason, self.group, self.fixed, *([self.typed_group] if self.typed else [])}
        gr.on(events, self.changed, inputs, shown, **now)
        if self._downloads is not None:
            listed = {self.list, self.status, self.timer}
            looks = [demo.load, self.timer.tick, self.fold.expand, self.picker.change]
            gr.on(looks, self.look, [self.picker, self.list], listed, **now)
            gr.on([demo.load, self.status.change], self.offered, None, {self.picker}, **now)
            self.list.click(self.act, self.picker, {*listed, self.picker}, **now)

    @property
    def inputs(self) -> set[Component]:
        """What `choice` needs."""
        return {self.picker, self.temperature, self.max_tokens, self.cache, *self.typed}

    @property
    def kept(self) -> dict[str, Component]:
        """What a reload finds as it was, by name. Never a key."""
        typed = {"typed": self.typed_model, "base": self.api_base} if self.typed else {}
        settings = {"temperature": self.temperature, "tokens": self.max_tokens, "cache": self.cache}
        return {"model": self.picker, **settings, **typed}

    def choice(self, given: Mapping[Component, Any]) -> LMChoice:
        """The model as the visitor set it. A typed key is in the choice and nowhere else.

        Raises:
            InvalidInput: “Other” was picked and no model named, or a number is none.
        """
        settings: dict[str, Any] = {
            "temperature": _number(given[self.temperature], "Temperature", float, (0, 2)),
            "max_tokens": _number(given[self.max_tokens], "Max tokens", int, (1, 1_000_000)),
            "cache": bool(given[self.cache]),
        }
        if given[self.picker] == OTHER and self.typed:
            model, api_base, key = ((given[field] or "").strip() for field in self.typed)
            if not model:
                raise InvalidInput("Name a model first, for example openai/gpt-4o-mini.")
            return LMChoice(model, api_base or None, SecretStr(key) if key else None, **settings)
        option = option_ids(self.offer.rows).get(given[self.picker])
        if option is None or _is_choice(option, self.detection.choice):
            return replace(self.detection.choice, **settings)
        return LMChoice(option.model, option.api_base, **settings)

    def title(self, given: Mapping[Component, Any]) -> str:
        """What the picked model is called."""
        picked = given[self.picker]
        if picked == OTHER and self.typed:
            return (given[self.typed_model] or "").strip() or "no model yet"
        option = option_ids(self.offer.rows).get(picked)
        return option.title if option else str(picked)

    async def changed(self, model: str, backend: str, connected: Connected | None) -> Update:
        """Another model, or another backend; a served version has a model of its own."""
        facts = self._backend.facts(backend, connected)
        is_start = picked_id(self.detection) == model
        typed = {self.typed_group: gr.update(visible=model == OTHER)} if self.typed else {}
        return {
            self.reason: gr.update(visible=is_start and bool(self.detection.reason)),
            **picker_or_fixed(self.group, self.fixed, facts, value=facts.model if facts else ""),
            **typed,
        }

    def restored(self, kept: Mapping[str, Any]) -> Update:
        """The picker of a page that has just loaded, as it was before where it can be so now."""
        rows = picker_rows(self.offer.rows, owner=self._downloads is not None)
        value = {"value": kept["model"]} if kept.get("model") in [name for _, name in rows] else {}
        return {self.picker: gr.update(choices=rows, **value)}

    # Downloads

    async def look(self, picked: str, shown: str, request: gr.Request) -> Update:
        """A tick of the timer, another choice in the picker, or a page that has just loaded."""
        if visitor_of(request).role != "owner":
            return skip()
        return if_new(await self._listed(picked), self.list, shown)

    async def offered(self, request: gr.Request) -> Update:
        """The picker, for a page that has just loaded or a model that has just come."""
        return await self._rows() if visitor_of(request).role == "owner" else skip()

    async def act(self, event: gr.EventData, picked: str, request: gr.Request) -> Update:
        """One of the buttons of the list."""
        if visitor_of(request).role != "owner":
            return {self.list: message(Forbidden.default_message, wrong=True)}
        try:
            return await self._act(clicked(event), clicked(event, "name"), picked)
        except Exception as error:
            return await self._listed(picked, sentence_of(error))

    async def _act(self, do: str, name: str, picked: str) -> Update:
        assert self._downloads is not None
        chosen: Update = {}
        match do:
            case "download":
                self._downloads.start(name)
            case "cancel":
                await self._downloads.cancel()
            case "discard":
                await asyncio.to_thread(remove, self._settings.models_dir, name)
            case "use":
                picked = PREFIX + name
                chosen = await self._rows()
                if picked not in option_ids(self.offer.rows):
                    raise NotFound("This model is not on this machine any more. Download it again.")
                chosen[self.picker]["value"] = picked
        return chosen | await self._listed(picked)

    async def _rows(self) -> Update:
        rows = await asyncio.to_thread(self.offer.look, self._settings)
        return {self.picker: gr.update(choices=picker_rows(rows))}

    async def _listed(self, picked: str, trouble: str = "") -> Update:
        assert self._downloads is not None
        states = await asyncio.to_thread(self._downloads.states)
        return {
            self.list: models_html(states, self._settings.hub_url, picked=picked, trouble=trouble),
            self.status: models_status(states),
            self.timer: gr.Timer(LOOK_S, active=self._downloads.busy),
        }


def models_html(states: Sequence[DownloadState], hub_url: str, *, picked: str = "", trouble: str = "") -> str:
    """The list of models to download.

    Args:
        picked: The model string of the picker.
        trouble: Why the last action did not work.
    """
    shown = {"states": states, "hub_url": hub_url, "picked": picked, "trouble": trouble}
    words = {"prefix": PREFIX, "size_text": size_text, "install_line": INSTALL_LINE}
    return template("models.html", runs=runtime_installed(), **shown, **words)


def models_status(states: Sequence[DownloadState]) -> str:
    """What a screen reader says: it changes with the state of a model, not with each piece that arrives."""
    words = []
    for state in states:
        match state.phase:
            case "running":
                words.append(f"{state.model.title} is being downloaded.")
            case "here":
                words.append(f"{state.model.title} is on this machine.")
            case "partial" | "absent" if state.reason:
                words.append(f"{state.model.title}: {state.reason}")
    return template("status.html", text=" ".join(words))


def option_ids(options: Sequence[LMOption]) -> dict[str, LMOption]:
    """The options by what the picker sends for them: the model, with a number where two have the same.

    The ids are part of the page, so the address of a model's server is not in them. The same options have the
    same ids after a restart.
    """
    named: dict[str, LMOption] = {}
    count: Counter[str] = Counter()
    for option in options:
        count[option.model] += 1
        number = count[option.model]
        named[option.model if number == 1 else f"{option.model}#{number}"] = option
    return named


def picker_rows(options: Sequence[LMOption], *, owner: bool = True) -> list[tuple[str, str]]:
    """The picker's choices: what a reader sees, and the id. A note that does not fit is left out."""
    rows = []
    for name, option in option_ids(options).items():
        noted = f"{option.title} ({option.note})"
        rows.append((noted if option.note and len(noted) <= ROW_MAX_CHARS else option.title, name))
    return [*rows, ("Other…", OTHER)] if owner else rows


def picked_id(detection: Detection) -> str | None:
    """The id of the option that the page starts with."""
    named = option_ids(detection.options).items()
    return next((name for name, row in named if _is_choice(row, detection.choice)), None)


def _is_choice(option: LMOption, choice: LMChoice) -> bool:
    return (option.model, option.api_base) == (choice.model, choice.api_base)


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


def _number(text: str | None, name: str, kind: Callable[[str], N], bounds: tuple[N, N]) -> N | None:
    """The number that a visitor typed; None where the field is empty."""
    if not text or not text.strip():
        return None
    least, most = bounds
    wrong = InvalidInput(f"{name} must be a number from {least:g} to {most:g}, or empty.")
    try:
        value = kind(text.strip())
    except ValueError:
        raise wrong from None
    if not least <= value <= most:
        raise wrong
    return value
