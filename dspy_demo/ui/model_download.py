"""Downloading a model from the page: what the buttons of the list do, and what it shows meanwhile."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component

from dspy_demo.errors import Forbidden, NotFound
from dspy_demo.lm.local.download import Downloads
from dspy_demo.lm.local.files import PREFIX, remove
from dspy_demo.lm.local.runtime import runtime_installed
from dspy_demo.settings import Settings
from dspy_demo.ui.actions import said
from dspy_demo.ui.asker import owner_only, visitor_of
from dspy_demo.ui.model_lines import models_html, spoken_models
from dspy_demo.ui.model_panel import LOOK_S, ModelPanel
from dspy_demo.ui.sidebar import Sidebar, picker_rows
from dspy_demo.ui.version_rows import message_html
from dspy_demo.ui.workbench import sentence_of

Update = dict[Component, Any]


@dataclass(frozen=True, slots=True)
class ModelHandlers:
    """Every handler that does something checks who asks; see `owner_only`."""

    downloads: Downloads
    settings: Settings
    sidebar: Sidebar
    panel: ModelPanel

    async def look(self, picked: str, seen: str, request: gr.Request) -> Update:
        """A tick of the timer, another choice in the picker, or a page that has just loaded."""
        skip: Update = gr.skip()
        if visitor_of(request).role != "owner":
            return skip
        drawn = await self._drawn(picked)
        return skip if drawn[self.panel.seen] == seen else drawn

    async def act(self, event: gr.EventData, picked: str, request: gr.Request) -> Update:
        """One of the buttons of the list."""
        told = said(event)
        try:
            owner_only(request)
            return await self._act(told.get("do", ""), told.get("name", ""), picked)
        except Forbidden as error:
            return {self.panel.list: message_html(error.public_message, wrong=True)}
        except Exception as error:
            return await self._drawn(picked, sentence_of(error))

    async def offer(self, request: gr.Request) -> Update:
        """The picker, for a page that has just loaded or a model that has just come."""
        if visitor_of(request).role != "owner":
            skip: Update = gr.skip()
            return skip
        rows = await asyncio.to_thread(self.sidebar.offer.look, self.settings)
        return {self.sidebar.model: gr.update(choices=picker_rows(rows))}

    async def _act(self, do: str, name: str, picked: str) -> Update:
        match do:
            case "download":
                self.downloads.start(name)
            case "cancel":
                await self.downloads.cancel()
            case "discard":
                await asyncio.to_thread(remove, self.settings.models_dir, name)
            case "use":
                return await self._use(PREFIX + name)
        return await self._drawn(picked)

    async def _use(self, model: str) -> Update:
        rows = await asyncio.to_thread(self.sidebar.offer.look, self.settings)
        if not any(row.model == model for row in rows):
            raise NotFound("This model is not on this machine any more. Download it again.")
        picked = gr.update(choices=picker_rows(rows), value=model)
        return {self.sidebar.model: picked} | await self._drawn(model)

    async def _drawn(self, picked: str, trouble: str = "") -> Update:
        states = await asyncio.to_thread(self.downloads.states)
        shown = models_html(
            states, runs=runtime_installed(), hub_url=self.settings.hub_url, picked=picked, trouble=trouble
        )
        return {
            self.panel.list: shown,
            self.panel.seen: shown,
            self.panel.spoken: spoken_models(states),
            self.panel.timer: gr.Timer(LOOK_S, active=self.downloads.busy),
        }
