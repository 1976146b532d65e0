"""Wires the page: components, handlers and the events between them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from dspy_demo.chat import ChatService
from dspy_demo.lm.catalog import LMCatalog
from dspy_demo.settings import Settings
from dspy_demo.ui import theme
from dspy_demo.ui.endpoint import chat_endpoint
from dspy_demo.ui.handlers import ChatHandlers, SidebarHandlers
from dspy_demo.ui.layout import Page, draw_page
from dspy_demo.ui.sidebar import PRODUCT, SidebarSection
from dspy_demo.ui.store import ConversationStore

#: An event that nobody but this page may call by name, and that draws no progress of its own.
#: Gradio does not enforce it (the route by index stays open), so handlers check for themselves.
QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}


def build_page(
    service: ChatService, catalog: LMCatalog, settings: Settings, sections: Sequence[SidebarSection] = ()
) -> gr.Blocks:
    """The page, ready to launch with `launch_options`.

    Args:
        sections: Further parts of the sidebar, each a function that draws and wires itself.
    """
    specs = service.programs.specs()
    program = service.programs.default
    with gr.Blocks(title=PRODUCT, analytics_enabled=False, fill_height=True, fill_width=True) as demo:
        page = draw_page(catalog.detection, specs, program, sections, served=False)
        store = ConversationStore(window=settings.ui_window_messages)
        _wire_chat(demo, page, ChatHandlers(service, settings, store, page))
        _wire_sidebar(page, SidebarHandlers(page))
        gr.api(
            chat_endpoint(service, settings, catalog.detection.choice, program),
            api_name="chat",
            api_description="Ask the program that the app started with.",
        )
    # One slot a turn, and room beside it for those who wait.
    demo.queue(default_concurrency_limit=None, max_size=settings.max_turns * 2)
    return demo


def launch_options() -> dict[str, Any]:
    """What `gr.Blocks.launch` needs for this page; address, threads and sharing are the caller's."""
    return {
        "theme": theme.theme(),
        "css": theme.css(),
        "head": theme.head(),
        "footer_links": [],
        "run_history": False,
        "enable_monitoring": False,
        "max_file_size": 0,
        "ssr_mode": False,
        "pwa": False,
        "mcp_server": False,
    }


def _wire_chat(demo: gr.Blocks, page: Page, chat: ChatHandlers) -> None:
    shown = {page.chatbot, page.composer, page.earlier, page.saved, page.notice}
    # The messages are ready for the wire; see `render`.
    now: dict[str, Any] = {**QUIET, "outputs": shown, "postprocess": False, "queue": False}

    demo.load(chat.load, page.saved, **now)
    demo.unload(chat.unload)
    for event, accept in (
        (page.composer.submit, chat.send),
        (page.chatbot.example_select, chat.example),
        (page.chatbot.retry, chat.retry),
        (page.chatbot.edit, chat.edit),
    ):
        accepted = event(accept, page.turn_inputs, **now)
        drawn = accepted.then(chat.draw, None, page.chatbot, postprocess=False, **QUIET)
        drawn.then(chat.settle, None, **now)
    page.composer.stop(chat.stop, queue=False, **QUIET)
    page.chatbot.undo(chat.undo, None, **now)
    page.new_chat.click(chat.new_chat, None, **now)
    page.earlier.click(chat.show_earlier, None, **now)


def _wire_sidebar(page: Page, sidebar: SidebarHandlers) -> None:
    side = page.sidebar
    now: dict[str, Any] = {**QUIET, "queue": False}
    groups = {form.group for form in page.forms.values()}
    side.model.change(sidebar.model_changed, side.model, {side.other, page.banner}, **now)
    side.program.change(
        sidebar.program_changed,
        side.program,
        {side.about_program, page.chatbot, page.composer, *groups},
        **now,
    )
    gr.on(
        [side.model.change, side.other_model.change, side.program.change, side.backend.change],
        side.active_html,
        [side.model, side.other_model, side.program, side.backend],
        side.active,
        **now,
    )
