"""How the page is wired."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

from dspy_demo.ui.build import build_page
from tests.services import house, settings_for


async def test_no_component_but_a_hidden_one_is_told_of_progress(data_dir: Path) -> None:
    """Gradio (6.31) copies, at each message of a stream, what the browser knows of all that are told."""
    settings = settings_for(data_dir)
    async with house(settings) as home:
        page = build_page(home.service, home.catalog, settings)
    told = {
        tuple(type(page.blocks[number]) for number in event.get("show_progress_on") or [])
        for event in page.get_config_file()["dependencies"]
        if event["outputs"] and event["api_visibility"] == "private"
    }
    assert told == {(gr.BrowserState,)}
