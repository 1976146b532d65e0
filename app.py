"""Chat with a DSPy program, watch it reason, log it, serve it: ``python app.py --help``.

Settings, then services, then the page. Importing this module does nothing.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import webbrowser
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from dspy_demo.errors import DemoError, SettingsError
from dspy_demo.settings import Settings, prepare_libraries

if TYPE_CHECKING:
    import gradio as gr

    from dspy_demo.chat import ChatService
    from dspy_demo.lm.detection import Detection
    from dspy_demo.programs.registry import ProgramRegistry
    from dspy_demo.ui.workbench import Workbench
    from dspy_demo.versions.store import VersionStore
    from dspy_demo.versions.version import Version


#: How long the last traces may take at the end.
TRACES_WRITTEN_S = 3.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the app until it is told to stop. Returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["log"]:
        from dspy_demo.versions.command import log_command

        return log_command(arguments[1:], os.environ)
    try:
        settings = Settings.load(arguments, os.environ)
        prepare_libraries(settings, os.environ)
        run(settings)
    except DemoError as error:
        print(error.public_message, file=sys.stderr)
        return 2
    return 0


def run(settings: Settings) -> None:
    """Start the services and the page, and wait until SIGINT or SIGTERM."""
    from dspy_demo.lm.detection import detect
    from dspy_demo.logs import configure_logging
    from dspy_demo.programs.offered import offered

    configure_logging(settings)
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    programs = offered(settings)
    # Importing gradio takes seconds; look for models meanwhile.
    with ThreadPoolExecutor(1) as thread:
        detecting = thread.submit(lambda: asyncio.run(detect(settings)))
        import gradio  # noqa: F401

        detection = detecting.result()
    demo = launch(settings, programs, detection)
    print(f"Ready: {demo.local_url}", flush=True)
    if demo.share_url:
        print(f"Public link: {demo.share_url}", flush=True)
    if settings.open:
        webbrowser.open(demo.local_url)
    stopping.wait()
    demo.close(verbose=False)


def launch(settings: Settings, programs: ProgramRegistry, detection: Detection) -> gr.Blocks:
    """Build the services, put the page and the routes on one server, and start it."""
    from dspy_demo.api import build_router, with_docs
    from dspy_demo.api.versions import versions_router
    from dspy_demo.backends.local import LocalBackend
    from dspy_demo.backends.served import ServedBackend
    from dspy_demo.chat import ChatService
    from dspy_demo.lm.catalog import LMCatalog
    from dspy_demo.serving.mlflow_ui import MLflowPages
    from dspy_demo.serving.model_server import ModelServers
    from dspy_demo.tracing.tracer import tracer_for
    from dspy_demo.ui.build import build_page, launch_options
    from dspy_demo.ui.workbench import Workbench
    from dspy_demo.versions.store import VersionStore

    catalog = LMCatalog(settings, detection)
    store = VersionStore(settings)
    served = ServedBackend(settings)
    workbench = Workbench(store, ModelServers(settings), served, MLflowPages(store.tracking))
    local = LocalBackend(settings, programs, catalog)
    service = ChatService(settings, programs, local, served, tracer=tracer_for(settings, store.tracking))
    page = build_page(service, catalog, settings, workbench)
    router = build_router(service, lambda: detection.choice)
    router.include_router(versions_router(version_logger(settings, programs, detection, store)))
    routes = with_docs(router)
    try:
        page.launch(
            server_name=settings.host,
            server_port=settings.port,
            share=settings.share,
            prevent_thread_lock=True,
            quiet=True,
            max_threads=settings.max_turns,
            app_kwargs={
                "routes": routes,
                "lifespan": lifespan(service, workbench),
                "docs_url": None,
                "redoc_url": None,
            },
            **launch_options(),
        )
    except OSError as error:
        raise SettingsError(
            f"Port {settings.port} on {settings.host} cannot be used. Choose another one with --port."
        ) from error
    return page


def version_logger(
    settings: Settings, programs: ProgramRegistry, detection: Detection, store: VersionStore
) -> Callable[[str, str | None, str, dict[str, str]], Version]:
    """What ``POST /versions`` does: log a program of the app with the app's own model."""
    from dspy_demo.ui.workbench import owner_only
    from dspy_demo.versions.version import LogRequest

    def log_version(name: str, program: str | None, description: str, tags: dict[str, str]) -> Version:
        owner_only(settings)
        request = LogRequest(name, program or programs.default.name, detection.choice, description, tags)
        return store.log(request, programs, settings.adapter)

    return log_version


def lifespan(service: ChatService, workbench: Workbench) -> Callable[[Any], Any]:
    """What runs in the server's own event loop before the first and after the last request."""

    @asynccontextmanager
    async def span(_: Any) -> AsyncIterator[None]:
        # The first question should not wait for dspy's import.
        warming = asyncio.create_task(asyncio.to_thread(__import__, "dspy_demo.streaming.turn"))
        cleaning = asyncio.create_task(asyncio.to_thread(workbench.servers.clean_leftovers))
        yield
        await service.aclose()
        await asyncio.gather(workbench.servers.aclose(), workbench.pages.stop(), warming, cleaning)
        await asyncio.to_thread(service.tracer.close, TRACES_WRITTEN_S)

    return span


if __name__ == "__main__":
    sys.exit(main())
