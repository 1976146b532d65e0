"""Wires the page: components, handlers and the events between them."""

from __future__ import annotations

from functools import partial
from typing import Any

import gradio as gr

from dspy_demo.chat import ChatService
from dspy_demo.guests.allowance import Allowance
from dspy_demo.lm.catalog import LMCatalog
from dspy_demo.programs.registry import ProgramRegistry
from dspy_demo.programs.spec import ProgramSpec
from dspy_demo.settings import Settings
from dspy_demo.ui import theme
from dspy_demo.ui.chat.cadence import Cadence
from dspy_demo.ui.chat.endpoint import chat_endpoint
from dspy_demo.ui.chat.handlers import ChatHandlers
from dspy_demo.ui.chat.rating import RatingHandlers
from dspy_demo.ui.chat.tabs import Tabs
from dspy_demo.ui.compare import CompareHandlers
from dspy_demo.ui.layout import Page, draw_page
from dspy_demo.ui.model_download import ModelHandlers
from dspy_demo.ui.server_panel import ServerHandlers, Serving
from dspy_demo.ui.share_panel import ShareHandlers
from dspy_demo.ui.sidebar import PRODUCT
from dspy_demo.ui.sidebar_handlers import SidebarHandlers
from dspy_demo.ui.version_handlers import VersionHandlers
from dspy_demo.ui.workbench import Workbench

#: Gradio (6.31) looks a thousand times a second for new events of each page, and a hundred times for progress
#: bars, of which there are none here: 6 to 8 % of a core while nobody does anything.
EVENTS_LOOKED_FOR_S, PROGRESS_LOOKED_FOR_S = 0.02, 0.5


def build_page(
    service: ChatService,
    catalog: LMCatalog,
    settings: Settings,
    workbench: Workbench | None = None,
    *,
    guests: Allowance | None = None,
) -> gr.Blocks:
    """The page of a role, to be shown by `ui.pages`.

    Args:
        workbench: Versions and model servers; without them the page is the local chat alone.
        guests: What guests may use: the page is theirs. None: it is the owner's.
    """
    detection = guests.detection if guests else catalog.detection
    offered = partial(_offered, service.programs, guests)
    specs = offered()
    program = specs[0]
    with gr.Blocks(title=PRODUCT, analytics_enabled=False, fill_height=True, fill_width=True) as demo:
        owner = workbench is not None and guests is None
        page = draw_page(detection, specs, program, owner=owner, model_name=settings.model_name)
        # Of this page alone: guests can push out each other's chats by their number, and not the owner's.
        tabs = Tabs(window=settings.ui_window_messages)
        cadence = Cadence(1 / settings.ui_updates_per_s)
        chat = ChatHandlers(service, settings, tabs, page, cadence, workbench)
        _wire_chat(demo, page, chat)
        if settings.tracing:
            _wire_rating(page, RatingHandlers(tabs, service, page.rating, page.notice, page.saved))
        _wire_sidebar(demo, page, SidebarHandlers(page, service.programs, offered, workbench))
        if workbench is not None:
            _wire_workbench(demo, page, chat, settings, workbench)
        gr.api(
            chat_endpoint(service, cadence, detection.choice, program),
            api_name="chat",
            api_description="Ask the program that the app started with.",
        )
    # One slot a turn, and room beside it for those who wait.
    demo.queue(default_concurrency_limit=None, max_size=settings.max_turns * 2)
    demo._queue.sleep_when_free = EVENTS_LOOKED_FOR_S
    demo._queue.progress_update_sleep_when_free = PROGRESS_LOOKED_FOR_S
    return demo


def _offered(programs: ProgramRegistry, guests: Allowance | None) -> list[ProgramSpec]:
    specs = programs.specs()
    return guests.programs_of(specs) if guests else specs


def page_options() -> dict[str, Any]:
    """How `gr.mount_gradio_app` shows this page."""
    return {
        "show_error": False,
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
    shown = {page.chatbot, page.composer, page.earlier, page.saved, page.notice, page.rating.row}
    # The messages are ready for the wire; see `render`.
    now: dict[str, Any] = {**page.quiet, "outputs": shown, "postprocess": False, "queue": False}
    # What the page itself does; see page.js. An event whose inputs hold the chat sends its ids alone.
    in_page: dict[str, Any] = {"fn": None, "inputs": None, "outputs": None, "api_visibility": "private"}
    by_id = {"js": "(...given) => chatPage.byId(given)"}
    again = {page.chatbot, *page.turn_inputs}

    demo.load(chat.load, page.saved, js="(saved) => chatPage.chat(saved)", **now)
    page.saved.change(**in_page | {"inputs": page.saved}, js="(saved) => chatPage.keep('chat', saved)")
    demo.unload(chat.unload)
    for event, accept, inputs in (
        (page.composer.submit, chat.send, page.turn_inputs),
        (page.chatbot.example_select, chat.example, page.turn_inputs),
        (page.chatbot.retry, chat.retry, again),
        (page.chatbot.edit, chat.edit, again),
    ):
        accepted = event(accept, inputs, **by_id, **now)
        accepted.then(**in_page, js="() => chatPage.showQuestion()")
        # The page (gradio 6.31) leaves a "once" out while the last one runs. That of a refused question
        # may be on its way when the next one is sent, whose answer would then never be drawn.
        drawn = accepted.then(
            chat.draw, None, page.chatbot, postprocess=False, trigger_mode="multiple", **page.quiet
        )
        drawn.then(chat.settle, None, **now)
    page.composer.stop(chat.stop, queue=False, **page.quiet)
    page.chatbot.undo(chat.undo, {page.chatbot, page.composer}, **by_id, **now)
    page.new_chat.click(chat.new_chat, None, js="() => chatPage.newChat()", **now)
    page.earlier.click(chat.show_earlier, None, **now)
    page.notice.click(chat.fix, None, **now | {"outputs": {*shown, page.sidebar.backend}})


def _wire_rating(page: Page, rating: RatingHandlers) -> None:
    now: dict[str, Any] = {**page.quiet, "queue": False}
    box = rating.box
    by_id = "(...given) => chatPage.byId(given)"
    page.chatbot.like(rating.rate, page.chatbot, rating.outputs, js=by_id, **now)
    gr.on(
        [box.send.click, box.comment.submit], rating.comment, [box.comment, box.turn], rating.outputs, **now
    )
    box.close.click(rating.closed, None, rating.outputs, **now)


def _wire_sidebar(demo: gr.Blocks, page: Page, sidebar: SidebarHandlers) -> None:
    side = page.sidebar
    now: dict[str, Any] = {**page.quiet, "queue": False}
    kept = side.kept
    names = ", ".join(kept)
    pickers = {side.program, side.model, side.backend}
    demo.load(sidebar.restore, page.choices, pickers, js="(last) => chatPage.own('choices', last)", **now)
    # What is typed is restored without the server, which would answer when something else was typed already.
    typed = {name: widget for name, widget in kept.items() if widget not in pickers}
    demo.load(
        None,
        [page.choices, *typed.values()],
        [*typed.values()],
        js=f"(last, {', '.join(typed)}) => chatPage.typed(last, {{ {', '.join(typed)} }})",
        **page.quiet,
    )
    gr.on(
        [widget.change for widget in kept.values()],
        None,
        [page.choices, *kept.values()],
        page.choices,
        js=f"(kept, {names}) => chatPage.choose(kept, {{ {names} }})",
        **page.quiet,
    )
    gr.on(
        [side.model.change, side.backend.change],
        sidebar.model_changed,
        [side.model, side.backend],
        {page.banner, side.reason, *([side.typed.group] if side.typed else [])},
        **now,
    )
    gr.on(
        [side.program.change, side.backend.change, side.server.spoken.change],
        sidebar.program_changed,
        [side.program, side.backend, side.server.connected],
        {side.about_program, page.chatbot, page.composer, *page.form_groups, *side.fixed_outputs},
        **now,
    )
    gr.on(
        [
            *(widget.change for widget in (side.model, side.program, side.backend, side.server.spoken)),
            *([side.typed.model.change] if side.typed else []),
        ],
        sidebar.active,
        side.inputs,
        side.active,
        **now,
    )


def _wire_workbench(
    demo: gr.Blocks, page: Page, chat: ChatHandlers, settings: Settings, workbench: Workbench
) -> None:
    side = page.sidebar
    panel = side.server
    now: dict[str, Any] = {**page.quiet, "queue": False}
    server = ServerHandlers(
        workbench, settings, Serving(workbench.servers), panel, side.backend, owner=page.owner
    )
    outputs = {*panel.outputs, side.backend}
    demo.load(server.connect_first, None, outputs, **now)
    panel.timer.tick(server.look, [panel.connected, panel.seen], outputs, **now)
    if side.versions is None or panel.other is None:  # the guests' page shows, and does nothing
        return
    gr.on([panel.state.click, page.notice.click], server.act, panel.connected, outputs, **now)
    other = panel.other
    gr.on([other.connect.click, other.address.submit], server.connect, other.address, outputs, **now)
    if side.share is not None:
        share = ShareHandlers(workbench.tunnel, side.share)
        gr.on([demo.load, side.share.timer.tick], share.look, side.share.state, side.share.outputs, **now)
        side.share.state.click(share.act, None, side.share.outputs, **now)
    if side.models is not None:
        _wire_models(demo, page, ModelHandlers(workbench.downloads, settings, side, side.models))
    handlers = VersionHandlers(workbench, settings, chat.service.programs, side, side.versions, server)
    chat_outputs = {page.chatbot, page.composer, page.earlier}
    listed = {side.versions.list, side.versions.head}
    side.versions.log.click(handlers.log, handlers.inputs, handlers.outputs, **page.quiet)
    side.versions.fold.expand(handlers.refresh, None, listed, **now)
    panel.spoken.change(handlers.refresh_open, None, listed, **now)
    for component in (side.versions.list, side.versions.head):
        acted = component.click(handlers.act, handlers.inputs, handlers.outputs, **page.quiet)
        acted.then(chat.link_traces, None, chat_outputs, postprocess=False, **now)
    if page.compare is not None:
        _wire_compare(demo, page, CompareHandlers(chat.service, workbench, page, page.compare, chat.cadence))


def _wire_models(demo: gr.Blocks, page: Page, models: ModelHandlers) -> None:
    side, panel = page.sidebar, models.panel
    now: dict[str, Any] = {**page.quiet, "queue": False}
    gr.on(
        [demo.load, panel.timer.tick, panel.fold.expand, side.model.change],
        models.look,
        [side.model, panel.seen],
        panel.outputs,
        **now,
    )
    gr.on([demo.load, panel.spoken.change], models.offer, None, {side.model}, **now)
    panel.list.click(models.act, side.model, {*panel.outputs, side.model}, **now)


def _wire_compare(demo: gr.Blocks, page: Page, compare: CompareHandlers) -> None:
    view = compare.view
    now: dict[str, Any] = {**page.quiet, "outputs": compare.outputs, "postprocess": False, "queue": False}
    sides = {view.left.target, view.right.target}
    chosen = [page.sidebar.program, page.sidebar.server.connected]
    view.tab.select(compare.choices, chosen, sides, queue=False, **page.quiet)
    demo.unload(compare.unload)
    accepted = view.composer.submit(compare.ask, compare.inputs, **(now | {"queue": True}))
    for side, draw in ((view.left, compare.draw_left), (view.right, compare.draw_right)):
        drawn = accepted.then(draw, None, side.chat, postprocess=False, **page.quiet)
        drawn.then(compare.settle, None, **now)
    view.composer.stop(compare.stop, queue=False, **page.quiet)
