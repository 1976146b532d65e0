"""The language model: the picker, the fields of another one, the settings, and models to download."""

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import gradio as gr
from gradio.components import Component
from pydantic import SecretStr

from dspy_demo.errors import InvalidInput
from dspy_demo.events import LMChoice
from dspy_demo.lm.choices import Detection, LMOption, Offer
from dspy_demo.lm.local.download import Downloads, DownloadState, size_text
from dspy_demo.lm.local.files import PREFIX, remove
from dspy_demo.lm.local.runtime import INSTALL_LINE, runtime_installed
from dspy_demo.settings import Settings
from dspy_demo.ui import components as ui
from dspy_demo.ui.components import Given, Update
from dspy_demo.ui.sections.backend import Connected, picker_or_fixed

OTHER = "other"


class ModelSection:
    """What answers locally. Only the owner can download models, or name one that is not on offer."""

    def __init__(self, detection: Detection, settings: Settings, *, downloads: Downloads | None) -> None:
        self.detection, self.offer = detection, Offer(detection)
        self._settings, self._downloads = settings, downloads
        self.typed: list[Component] = []

    def draw(self) -> None:
        with ui.section("Model"):
            self.fixed = gr.HTML(visible=False, elem_classes="fixed", padding=False)
            with gr.Column(elem_classes="picker") as self.group:
                start = self.detection.choice.model
                self.picker = ui.dropdown(self._rows(), start, label="Model", elem_id="model")
                reason = ui.message(self.detection.reason)
                self.reason = gr.HTML(reason, visible=bool(reason), elem_classes="own", padding=False)
                self.shown: set[Component] = {self.reason, self.group, self.fixed}
                if self._downloads is not None:
                    with gr.Column(visible=False) as self.typed_group:
                        info = "provider/name, as in LiteLLM"
                        self.typed_model = ui.line("Model", "openai/gpt-4o-mini", info=info)
                        self.api_base = ui.line("Base URL (optional)", "http://localhost:8000/v1")
                        info = "Not saved. Sent only to this provider."
                        self.api_key = ui.line("API key (optional)", info=info, type="password")
                    self.typed = [self.typed_model, self.api_base, self.api_key]
                    self.shown.add(self.typed_group)
                    opened, title = self.detection.demo, "Download a small model"
                    with gr.Accordion(title, open=opened, elem_classes="fold", elem_id="models") as self.fold:
                        self.list = ui.action_html('<p class="quiet">Looking…</p>', elem_id="model-list")
                    self.timer = gr.Timer(1.0, active=False)
                self._draw_settings()

    def _draw_settings(self) -> None:
        start = self.detection.choice
        with gr.Accordion("Generation settings", open=False, elem_classes="fold"):
            # Not gr.Number: there an empty field is 0, which is a temperature.
            self.temperature, self.max_tokens = (
                ui.line(label, "Model default", value="" if value is None else f"{value:g}")
                for label, value in (("Temperature", start.temperature), ("Max tokens", start.max_tokens))
            )
            self.cache = gr.Checkbox(start.cache, label="Use cached answers")

    def wire(self, demo: gr.Blocks, now: dict[str, Any]) -> None:
        """The events of the downloads; what depends on the picker is drawn by the header."""
        if self._downloads is not None:
            outputs = {self.list, self.timer, self.picker}
            gr.on([demo.load, self.timer.tick, self.fold.expand], self.look, self.list, outputs, **now)
            self.list.click(self.act, None, outputs, **now)

    @property
    def inputs(self) -> set[Component]:
        return {self.picker, self.temperature, self.max_tokens, self.cache, *self.typed}

    @property
    def kept(self) -> dict[str, Component]:
        """What was typed, by name, and a reload finds as it was. Never a key."""
        typed = {"typed": self.typed_model, "base": self.api_base} if self.typed else {}
        return {"temperature": self.temperature, "tokens": self.max_tokens, "cache": self.cache, **typed}

    def choice(self, given: Given) -> LMChoice:
        """The model as the visitor set it. A typed key is in the choice and nowhere else."""
        settings: dict[str, Any] = {
            "temperature": _number(given[self.temperature], "Temperature", 2),
            "max_tokens": _number(given[self.max_tokens], "Max tokens", 1_000_000, whole=True),
            "cache": bool(given[self.cache]),
        }
        if given[self.picker] == OTHER and self.typed:
            model, api_base, key = ((given[field] or "").strip() for field in self.typed)
            if not model:
                raise InvalidInput("Name a model first, for example openai/gpt-4o-mini.")
            return LMChoice(model, api_base or None, SecretStr(key) if key else None, **settings)
        option = self._options().get(given[self.picker])
        if option is None or option.model == self.detection.choice.model:
            return replace(self.detection.choice, **settings)
        return LMChoice(option.model, option.api_base, **settings)

    def title(self, given: Given) -> str:
        if given[self.picker] == OTHER and self.typed:
            return (given[self.typed_model] or "").strip() or "no model yet"
        option = self._options().get(given[self.picker])
        return option.title if option else str(given[self.picker])

    def drawn(self, given: Given, serving: Connected | None) -> Update:
        is_start = given[self.picker] == self.detection.choice.model
        typed = {self.typed_group: gr.update(visible=given[self.picker] == OTHER)} if self.typed else {}
        reason = {self.reason: gr.update(visible=is_start and bool(self.detection.reason))}
        lm = serving.info.lm if serving else ""
        return typed | reason | picker_or_fixed(self.group, self.fixed, serving, value=lm or "")

    def pick(self, model: object) -> Update:
        return {self.picker: ui.picked(self._rows(), model)}

    async def look(self, shown: str, request: gr.Request) -> Update:
        return ui.if_new(await self._listed(), self.list, shown) if ui.is_owner(request) else ui.skip()

    async def act(self, event: gr.EventData, request: gr.Request) -> Update:
        if self._downloads is None or not ui.is_owner(request):
            return ui.skip()
        name, trouble = ui.clicked(event, "name"), ""
        try:
            match ui.clicked(event):
                case "download":
                    self._downloads.start(name)
                case "cancel":
                    await self._downloads.cancel()
                case "discard":
                    await asyncio.to_thread(remove, self._settings.models_dir, name)
                case "use":
                    return self.pick(PREFIX + name)
        except Exception as error:
            trouble = ui.sentence_of(error)
        return await self._listed(trouble)

    async def _listed(self, trouble: str = "") -> Update:
        """The list, and the picker when no model is on its way that would be offered."""
        assert self._downloads is not None
        busy, states = self._downloads.busy, await asyncio.to_thread(self._downloads.states)
        await asyncio.to_thread(self.offer.look, self._settings)
        html = models_html(states, self._settings.hub_url, trouble)
        update: Update = {self.list: html, self.timer: gr.Timer(active=busy)}
        return update if busy else update | self.pick(None)

    def _options(self) -> dict[str, LMOption]:
        """What is on offer by its name; of two servers with the same model, the first."""
        options: dict[str, LMOption] = {}
        for option in self.offer.rows:
            options.setdefault(option.model, option)
        return options

    def _rows(self) -> list[tuple[str, str]]:
        """The picker's choices: what a reader sees, and the name."""
        rows = [(option.title, name) for name, option in self._options().items()]
        return [*rows, ("Other…", OTHER)] if self._downloads is not None else rows


def models_html(states: Sequence[DownloadState], hub_url: str, trouble: str = "") -> str:
    """The list; `trouble` is why the last action did not work."""
    words = {"size_text": size_text, "install_line": INSTALL_LINE, "runs": runtime_installed()}
    return ui.template("models.html", states=states, hub_url=hub_url, trouble=trouble, **words)


def _number(text: str | None, name: str, most: int, *, whole: bool = False) -> float | None:
    """The number that a visitor typed; None where the field is empty."""
    if not text or not text.strip():
        return None
    with contextlib.suppress(ValueError):
        value = int(text) if whole else float(text)
        if int(whole) <= value <= most:
            return value
    raise InvalidInput(f"{name} must be a number from {int(whole)} to {most}, or empty.")
