"""The two pages as the app mounts them."""

from __future__ import annotations

import gradio as gr

from dspy_demo.ui.pages import Pages


async def test_as_many_turns_are_drawn_at_once_as_may_run() -> None:
    """Gradio's queue (6.31) takes 40 events at a time where nobody says more, those of coroutines as well."""
    with gr.Blocks() as owner:
        gr.Markdown("owner")
    with gr.Blocks() as guest:
        gr.Markdown("guest")
    async with Pages(owner, guest, max_turns=123).running():
        for page in (owner, guest):
            assert len(page._queue.active_jobs) > 123
