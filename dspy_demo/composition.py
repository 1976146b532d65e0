"""Settings become services, and the services one web server. Nothing else builds them."""

from __future__ import annotations

import asyncio
import gc
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from fastapi import FastAPI

from dspy_demo.api.ops import probes_router, versions_router
from dspy_demo.api.routes import build_api
from dspy_demo.backends.local import LocalBackend
from dspy_demo.backends.served import ServedBackend
from dspy_demo.chat import ChatService
from dspy_demo.events import LocalTarget
from dspy_demo.guests.allowance import Allowance
from dspy_demo.guests.limits import GuestLimits
from dspy_demo.lm.catalog import LMCatalog
from dspy_demo.lm.choices import Detection
from dspy_demo.lm.local.download import Downloads
from dspy_demo.programs.registry import ProgramRegistry
from dspy_demo.serving.mlflow_ui import MLflowPages
from dspy_demo.serving.processes import SERVER_PHASES, ModelServers
from dspy_demo.settings import Settings
from dspy_demo.share.gradio_bridge import GradioTunnel
from dspy_demo.share.tunnel import PHASES, Tunnel
from dspy_demo.tracing.tracer import Tracer
from dspy_demo.ui.components import Services
from dspy_demo.ui.page import build_page
from dspy_demo.ui.pages import Pages, head
from dspy_demo.ui.sections.backend import guest_urls
from dspy_demo.versions.store import VersionStore
from dspy_demo.versions.version import LogRequest, Version
from dspy_demo.web.auth import Auth
from dspy_demo.web.server import protected, serve_app
from dspy_demo.web.terminal import Terminal


def serve(
    settings: Settings, programs: ProgramRegistry, detection: Detection, listening: socket.socket
) -> None:
    """Put the pages and the routes behind auth, and serve them to the end."""
    address = listening.getsockname()[:2]
    auth = Auth(settings, address[1])
    terminal = Terminal(settings, auth, address[1])
    program, data_dir = GradioTunnel(settings.share_server), settings.data_dir
    tunnel = Tunnel(program, address, data_dir, on_public=terminal.shared, on_link=terminal.linked)
    services = _services(settings, programs, detection, tunnel)
    chat = services.chat
    pages = Pages(owner=build_page(services), guest=build_page(services, guests=chat.allowance))
    app = _routes(services, detection, pages)
    app.mount("/", pages)
    guarded, drain = protected(app, auth, head=head()), partial(chat.drain, settings.shutdown_grace_s)
    asyncio.run(serve_app(guarded, listening, settings, on_ready=terminal.tell_ready, drain=drain))


def _services(
    settings: Settings, programs: ProgramRegistry, detection: Detection, tunnel: Tunnel
) -> Services:
    """What the pages and the routes share."""
    catalog, versions = LMCatalog(settings, detection), VersionStore(settings)
    local, served = LocalBackend(settings, programs, catalog), ServedBackend(settings)
    servers = ModelServers(settings)
    tracer = Tracer(settings, versions.tracking)
    limits = GuestLimits(settings, settings.data_dir / "guests.db")
    allowance = Allowance(settings, programs.specs(), detection, guest_urls(servers, settings))
    chat = ChatService(settings, programs, local, served, tracer=tracer, allowance=allowance, limits=limits)
    return Services(
        settings=settings,
        chat=chat,
        catalog=catalog,
        versions=versions,
        local=local,
        servers=servers,
        served=served,
        mlflow=MLflowPages(versions.tracking),
        tunnel=tunnel,
        downloads=Downloads(settings),
    )


def _routes(services: Services, detection: Detection, pages: Pages) -> FastAPI:
    """The routes of the app. A new route is a router more."""
    chat, choice, servers, tunnel = services.chat, detection.choice, services.servers, services.tunnel
    chat.observer.show_state("model_server", SERVER_PHASES, lambda: servers.state().phase)
    chat.observer.show_state("share", PHASES, lambda: tunnel.state().phase)
    first = LocalTarget(chat.programs.default.name, choice)

    def log_version(name: str, program: str | None, description: str, tags: dict[str, str]) -> Version:
        """A program of the app with the app's own model."""
        request = LogRequest(name, program or first.program, choice, description, tags)
        return services.versions.log(request, chat.programs, services.settings.adapter)

    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        warming = asyncio.create_task(asyncio.to_thread(_warm))
        if services.settings.share:
            tunnel.begin()
        async with pages.running():
            yield
        services.versions.close()
        await tunnel.close()
        await chat.aclose()
        await services.downloads.cancel()
        await asyncio.gather(servers.aclose(), services.mlflow.stop(), warming)
        await asyncio.to_thread(chat.tracer.close, 3.0)

    probes = probes_router(chat, lambda: services.local.prepare(first), servers.phase)
    return build_api(chat, lambda: choice, probes, versions_router(log_version), lifespan=lifespan)


def _warm() -> None:
    """The first question should not wait for an import, nor chats for 0.3 s at a full collection."""
    import dspy_demo.streaming.turn  # noqa: F401

    gc.freeze()
    gc.enable()
