"""Wires the page: components, handlers and the events between them."""

from __future__ import annotations

from functools import partial
from typing import Any

import gradio as gr

from dspy_demo.chat import ChatService
from dspy_demo.events import LocalTarget
from dspy_demo.guests.allowance import Allowance
from dspy_demo.lm.catalog import LMCatalog
from dspy_demo.programs.registry import ProgramRegistry
from dspy_demo.programs.spec import ProgramSpec
from dspy_demo.settings import Settings
from dspy_demo.ui import theme
from dspy_demo.ui.chat.section import Chat
from dspy_demo.ui.compare import CompareHandlers
from dspy_demo.ui.layout import Page, draw_page
from dspy_demo.ui.model_download import ModelHandlers
from dspy_demo.ui.picks import SidebarPicks
from dspy_demo.ui.server_panel import ServerHandlers, Serving
from dspy_demo.ui.share_panel import ShareHandlers
from dspy_demo.ui.sidebar import PRODUCT, draw_sidebar
from dspy_demo.ui.sidebar_handlers import SidebarHandlers
from dspy_demo.ui.version_handlers import VersionHandlers
from dspy_demo.ui.workbench import Workbench


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
        side = draw_sidebar(detection, specs, program, owner=owner, model_name=settings.model_name)
        picks = SidebarPicks(side, service.programs, workbench, owner)
        pages = workbench.pages if workbench is not None and owner else None
        chat = Chat(service, picks, rating=settings.tracing, mlflow_url=lambda: pages.url if pages else "")
        page = draw_page(chat, side, specs, LocalTarget(program.name, detection.choice), owner=owner)
        chat.wire(demo, page.new_chat, {**page.quiet, "queue": False})
        _wire_sidebar(demo, page, SidebarHandlers(page, service.programs, offered, workbench))
        if workbench is not None:
            _wire_workbench(demo, page, chat, settings, workbench)
    # One slot a turn, and room beside it for those who wait.
    demo.queue(default_concurrency_limit=None, max_size=settings.max_turns * 2)
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
        {side.about_program, *side.fixed_outputs},
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
    demo: gr.Blocks, page: Page, chat: Chat, settings: Settings, workbench: Workbench
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
    gr.on([panel.state.click, page.chat.notice.click], server.act, panel.connected, outputs, **now)
    other = panel.other
    gr.on([other.connect.click, other.address.submit], server.connect, other.address, outputs, **now)
    if side.share is not None:
        share = ShareHandlers(workbench.tunnel, side.share)
        gr.on([demo.load, side.share.timer.tick], share.look, side.share.state, side.share.outputs, **now)
        side.share.state.click(share.act, None, side.share.outputs, **now)
    if side.models is not None:
        _wire_models(demo, page, ModelHandlers(workbench.downloads, settings, side, side.models))
    handlers = VersionHandlers(workbench, settings, chat.service.programs, side, side.versions, server)
    listed = {side.versions.list, side.versions.head}
    side.versions.log.click(handlers.log, handlers.inputs, handlers.outputs, **page.quiet)
    side.versions.fold.expand(handlers.refresh, None, listed, **now)
    panel.spoken.change(handlers.refresh_open, None, listed, **now)
    for component in (side.versions.list, side.versions.head):
        acted = component.click(handlers.act, handlers.inputs, handlers.outputs, **page.quiet)
        chat.link_traces(acted, now)
    if page.compare is not None:
        _wire_compare(demo, page, CompareHandlers(chat.service, workbench, page, page.compare, demo))


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
