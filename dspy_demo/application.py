"""The app: arguments become services, the services one web server. Nothing else builds them."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from dspy_demo.errors import DemoError
from dspy_demo.settings import PRIVATE_UMASK, Settings, close_to_others, prepare_libraries

if TYPE_CHECKING:
    import socket

    from fastapi import FastAPI

    from dspy_demo.guests.allowance import Allowance
    from dspy_demo.lm.choices import Detection
    from dspy_demo.programs.registry import ProgramRegistry
    from dspy_demo.serving.processes import ModelServers
    from dspy_demo.share.tunnel import Tunnel
    from dspy_demo.ui.components import Services
    from dspy_demo.ui.pages import Pages
    from dspy_demo.versions.version import Version

#: Where the app listens without --port: on the first one that is free.
PORTS = range(7860, 7960)
#: How long the last traces may take at the end.
TRACES_WRITTEN_S = 3.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the app, or one of its commands, until it is done or told to stop. Returns the exit code."""
    os.umask(PRIVATE_UMASK)
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["log"]:
        from dspy_demo.versions.command import log_command

        return log_command(arguments[1:], os.environ)
    if arguments[:1] == ["models"]:
        from dspy_demo.lm.local.command import models_command

        return models_command(arguments[1:], os.environ)
    try:
        settings = Settings.load(arguments, os.environ)
        prepare_libraries(settings, os.environ)
        run(settings)
    except DemoError as error:
        print(error.public_message, file=sys.stderr)
        return 2
    return 0


def run(settings: Settings) -> None:
    """Start the services and the page, and serve them until SIGINT or SIGTERM."""
    from dspy_demo.lm.choices import detect
    from dspy_demo.logs import configure_logging
    from dspy_demo.processes import listen
    from dspy_demo.programs.registry import offered
    from dspy_demo.web.server import on_stop_signal

    configure_logging(settings)
    close_to_others(settings.data_dir)
    on_stop_signal(lambda: sys.exit(0))  # until the server has taken the signals over
    listening = listen(settings.host, [settings.port] if settings.port else PORTS)
    # Importing dspy and gradio takes seconds; look for models meanwhile.
    with ThreadPoolExecutor(1) as thread:
        detecting = thread.submit(lambda: asyncio.run(detect(settings)))
        programs = offered(settings)
        import gradio  # noqa: F401

        detection = detecting.result()
    serve(settings, programs, detection, listening)


def serve(
    settings: Settings, programs: ProgramRegistry, detection: Detection, listening: socket.socket
) -> None:
    """Build the services, put the pages and the routes behind auth, and serve them to the end."""
    from dspy_demo.guests.allowance import Allowance
    from dspy_demo.serving.processes import ModelServers
    from dspy_demo.share.gradio_bridge import GradioTunnel
    from dspy_demo.share.tunnel import Tunnel
    from dspy_demo.ui import theme
    from dspy_demo.ui.page import build_page
    from dspy_demo.ui.pages import Pages
    from dspy_demo.ui.sections.backend import guest_urls
    from dspy_demo.web.auth import Auth
    from dspy_demo.web.server import WebServer, protected
    from dspy_demo.web.terminal import Terminal

    host, port = listening.getsockname()[:2]
    auth = Auth(settings, port)
    terminal = Terminal(settings, auth, port)
    program = GradioTunnel(settings.share_server)
    tunnel = Tunnel(
        program, (host, port), settings.data_dir, on_public=terminal.shared, on_link=terminal.linked
    )
    servers = ModelServers(settings, os.environ)
    allowance = Allowance(settings, programs.specs(), detection, guest_urls(servers, settings))
    services = build_services(
        settings, programs, detection, allowance=allowance, servers=servers, tunnel=tunnel
    )
    pages = Pages(owner=build_page(services), guest=build_page(services, guests=allowance))
    share = terminal.share(tunnel.open) if settings.share else None
    app = build_routes(services, detection, lifespan(services, pages, share))
    app.mount("/", pages)
    WebServer(
        protected(app, auth, head=theme.head()),
        listening,
        settings,
        on_ready=terminal.tell_ready,
        drain=lambda: services.chat.drain(settings.shutdown_grace_s),
    ).run()


def build_services(
    settings: Settings,
    programs: ProgramRegistry,
    detection: Detection,
    *,
    allowance: Allowance,
    servers: ModelServers,
    tunnel: Tunnel,
) -> Services:
    """The services of one app, which the page and the routes share."""
    from dspy_demo.backends.local import LocalBackend
    from dspy_demo.backends.served import ServedBackend
    from dspy_demo.chat import ChatService
    from dspy_demo.guests.limits import GuestLimits
    from dspy_demo.lm.catalog import LMCatalog
    from dspy_demo.lm.local.download import Downloads
    from dspy_demo.serving.mlflow_ui import MLflowPages
    from dspy_demo.tracing.tracer import tracer_for
    from dspy_demo.ui.components import Services
    from dspy_demo.versions.store import VersionStore

    catalog, versions = LMCatalog(settings, detection), VersionStore(settings, os.environ)
    local, served = LocalBackend(settings, programs, catalog), ServedBackend(settings)
    tracer = tracer_for(settings, versions.tracking)
    limits = GuestLimits(settings, settings.data_dir / "guests.db")
    chat = ChatService(settings, programs, local, served, tracer=tracer, allowance=allowance, limits=limits)
    return Services(
        settings=settings,
        chat=chat,
        catalog=catalog,
        versions=versions,
        local=local,
        servers=servers,
        served=served,
        mlflow=MLflowPages(versions.tracking, os.environ),
        tunnel=tunnel,
        downloads=Downloads(settings),
    )


def build_routes(services: Services, detection: Detection, lifespan: Callable[[Any], Any]) -> FastAPI:
    """The routes of the app. A new route is a router more."""
    from dspy_demo.api import build_api
    from dspy_demo.api.ops import probes_router, versions_router
    from dspy_demo.events import LocalTarget
    from dspy_demo.serving.processes import SERVER_PHASES
    from dspy_demo.share.tunnel import PHASES
    from dspy_demo.versions.version import LogRequest

    settings, chat, choice = services.settings, services.chat, detection.choice
    first = chat.programs.default.name
    metrics, servers, tunnel = chat.observer, services.servers, services.tunnel
    metrics.show_state(
        "model_server", "State of the model server.", SERVER_PHASES, lambda: servers.state().phase
    )
    metrics.show_state("share", "State of the public link.", PHASES, lambda: tunnel.state().phase)

    def log_version(name: str, program: str | None, description: str, tags: dict[str, str]) -> Version:
        """A program of the app with the app's own model."""
        request = LogRequest(name, program or first, choice, description, tags)
        return services.versions.log(request, chat.programs, settings.adapter)

    target = LocalTarget(first, choice)
    probes = probes_router(chat, lambda: services.local.prepare(target), servers.phase)
    routers = (probes, versions_router(log_version))
    return build_api(chat, lambda: choice, *routers, lifespan=lifespan)


def _warm() -> None:
    """The first question should not wait for dspy's import, nor chats for looking through what is loaded.

    The libraries have a million objects, and a full collection of garbage would stop every chat for 0.3 s.
    """
    import dspy_demo.streaming.turn  # noqa: F401

    gc.freeze()


def lifespan(
    services: Services, pages: Pages, share: Coroutine[Any, Any, None] | None
) -> Callable[[Any], Any]:
    """What runs in the server's own event loop before the first and after the last request."""

    @asynccontextmanager
    async def span(_: Any) -> AsyncIterator[None]:
        warming = asyncio.create_task(asyncio.to_thread(_warm))
        sharing = [asyncio.create_task(share)] if share else []
        async with pages.running():
            yield
        services.versions.close()
        await services.tunnel.close()
        await services.chat.aclose()
        await services.downloads.cancel()
        await asyncio.gather(services.servers.aclose(), services.mlflow.stop(), warming, *sharing)
        await asyncio.to_thread(services.chat.tracer.close, TRACES_WRITTEN_S)

    return span
