"""The model server: one version behind the routes of ``mlflow models serve``, and ours beside them.

``/ping``, ``/health``, ``/version`` and ``/invocations`` keep the contract of ``mlflow models serve``; beside
them are the API's routes, which stream, ``/model`` (what is served) and ``/ready``. There is no page here.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dspy_demo import __version__
from dspy_demo.api import build_router
from dspy_demo.api.encoding import JsonResponse
from dspy_demo.api.probes import Readiness, probes_router
from dspy_demo.backends.local import LocalBackend
from dspy_demo.backends.served_wire import identity_headers
from dspy_demo.chat import ChatService
from dspy_demo.errors import DemoError, ModelSetupError
from dspy_demo.events import LMChoice, LocalTarget
from dspy_demo.lm.catalog import PLACEHOLDER_KEY, LMCatalog
from dspy_demo.lm.choices import Detection
from dspy_demo.lm.gguf.identity import the_same
from dspy_demo.lm.local_models import LocalModel
from dspy_demo.lm.providers import provider_for
from dspy_demo.metrics import Metrics
from dspy_demo.programs.registry import ProgramRegistry
from dspy_demo.serving.handshake import INSTANCE_VARIABLE
from dspy_demo.serving.invocations import invocations_router
from dspy_demo.serving.served_version import ServedVersion, missing_key
from dspy_demo.settings import Settings
from dspy_demo.tracing.tracer import tracer_for
from dspy_demo.versions.tracking import Tracking

if TYPE_CHECKING:
    import dspy

#: How long the last traces may take at the end.
TRACES_WRITTEN_S = 4.0


class VersionCatalog(LMCatalog):
    """The catalog of a model server: every turn runs on the model that the version was logged with."""

    def __init__(self, settings: Settings, choice: LMChoice, version: ServedVersion) -> None:
        super().__init__(settings, Detection(choice, "Logged with the version.", ()))
        self._version = version

    def lm(self, choice: LMChoice) -> dspy.LM:
        return self._version.own_lm if self._version.own_lm is not None else super().lm(choice)

    def _model_file(self, choice: LMChoice) -> LocalModel:
        file = self._version.model_file
        return the_same(file, self._settings) if file else super()._model_file(choice)


@dataclass(slots=True)
class ServedModel:
    """What ``GET /model`` tells."""

    version: ServedVersion
    asked_as: str
    reason: str
    key_present: bool
    instance: str = ""
    open_requests: int = 0
    started_at: float = field(default_factory=time.time)

    def content(self) -> dict[str, Any]:
        return {
            "server": "dspy-demo",
            "app_version": __version__,
            "version": self.version.uri,
            "asked_as": self.asked_as,
            "program": self.version.spec.name,
            "title": self.version.spec.title,
            "lm": self.version.lm.model,
            "adapter": self.version.adapter,
            "ready": not self.reason,
            "reason": self.reason,
            "key_present": self.key_present,
            "running": self.open_requests,
            "started_at": self.started_at,
            "uptime_s": time.time() - self.started_at,
            "instance": self.instance,
        }


def build_app(version: ServedVersion, settings: Settings, *, asked_as: str = "") -> FastAPI:
    """The ASGI application of a version."""
    key = settings.api_key or provider_for(version.lm.model).key(settings)
    choice = replace(version.lm, api_key=key)
    programs = ProgramRegistry([replace(version.spec, build=lambda: version.module, adapter=version.adapter)])
    catalog = VersionCatalog(settings, choice, version)
    tracer = tracer_for(settings, Tracking(settings), serves=version.uri)
    local, metrics = LocalBackend(settings, programs, catalog), Metrics()
    service = ChatService(settings, programs, local, tracer=tracer, observer=metrics)
    model = ServedModel(
        version,
        asked_as or version.uri,
        missing_key(choice, settings) or _trial(catalog, choice),
        key_present=choice.api_key is not None,
        instance=os.environ.get(INSTANCE_VARIABLE, ""),
    )
    _lend_key(choice)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await service.aclose()
        await asyncio.to_thread(tracer.close, TRACES_WRITTEN_S)

    app = FastAPI(title=f"Model server of {version.uri}", version=__version__, lifespan=lifespan)
    app.state.service = service
    app.add_middleware(CountRequests, model=model)
    app.add_middleware(NameItself, headers=identity_headers(version.uri, model.instance))
    app.router.routes += _small_routes()
    app.include_router(invocations_router(service, lambda: choice))

    @app.get("/model", summary="What is served here")
    async def served_model() -> JsonResponse:
        return JsonResponse(model.content())

    async def prepare() -> None:
        if model.reason:
            raise ModelSetupError(model.reason)
        await local.prepare(LocalTarget(version.spec.name, choice))

    app.include_router(build_router(service, lambda: choice))
    app.include_router(probes_router(metrics, Readiness(service, prepare)))
    return app


def _trial(catalog: LMCatalog, choice: LMChoice) -> str:
    """Build the model once, before the first question needs it; why it cannot be, or nothing."""
    try:
        catalog.lm(choice)
    except DemoError as error:
        return error.public_message
    return ""


def _small_routes() -> list[Route]:
    """What else ``mlflow models serve`` answers, to the byte."""
    from mlflow.version import VERSION

    def answer(content: str) -> Callable[[Request], Response]:
        return lambda _: Response(content, media_type="application/json")

    return [
        Route("/ping", answer("\n")),
        Route("/health", answer("\n")),
        Route("/version", answer(VERSION)),
    ]


def _lend_key(choice: LMChoice) -> None:
    """A model that the program holds itself finds its key in the environment only.

    DSPy's native engine (3.4.1) insists on one also for a local server that needs none.
    """
    key = (
        choice.api_key.get_secret_value() if choice.api_key else PLACEHOLDER_KEY if choice.api_base else None
    )
    for variable in provider_for(choice.model).keys:
        if key is not None:
            os.environ.setdefault(variable, key)


class NameItself:
    """Says in every reply which version and which process it comes from; see `check_identity`."""

    def __init__(self, app: ASGIApp, headers: Mapping[str, str]) -> None:
        self._app = app
        self._headers = [(name.lower().encode(), value.encode()) for name, value in headers.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *self._headers]}
            await send(message)

        await self._app(scope, receive, named if scope["type"] == "http" else send)


class CountRequests:
    """Counts the questions that are being answered, so that a switch can wait for them."""

    def __init__(self, app: ASGIApp, model: ServedModel) -> None:
        self._app = app
        self._model = model

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        counts = scope["type"] == "http" and scope["method"] == "POST"
        self._model.open_requests += counts
        try:
            await self._app(scope, receive, send)
        finally:
            self._model.open_requests -= counts
