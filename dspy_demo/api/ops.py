"""Routes for who runs a server: ``/ready``, ``/metrics``, and the owner's ``POST /versions``."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import PlainTextResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from dspy_demo.api.bodies import ERRORS, JsonResponse
from dspy_demo.api.errors import JsonRoute
from dspy_demo.chat import ChatService
from dspy_demo.errors import DemoError
from dspy_demo.logs import log_failure
from dspy_demo.versions.version import Version
from dspy_demo.web.auth import asked_by_owner, owner_only

log = logging.getLogger(__name__)
OWNER = Depends(owner_only)
NOT_READY = "It cannot answer now. Its owner is told why at this address."  # the reason may name addresses


class Ready(BaseModel):
    ready: bool
    reason: str = Field(description="Why not, in one sentence; empty where it can.")
    tracking: str = Field(description="`ok`, `failing` (answers are not recorded) or `off`.")
    model_server: str = Field(description="Phase of the app's model server, such as `ready`; or `none`.")


def probes_router(
    service: ChatService,
    prepare: Callable[[], Awaitable[object]],
    model_server: Callable[[], Awaitable[str]] | None = None,
) -> APIRouter:
    """``/ready`` and ``/metrics``; `prepare` builds program and model of a turn, or raises why it cannot."""
    router = APIRouter()
    logged = ""  # asked every few seconds, so a reason is logged once

    @router.head("/ready", include_in_schema=False)
    @router.get("/ready", response_model=Ready, responses={503: {"model": Ready}})
    async def ready(request: Request) -> Response:
        """Whether a question can be answered; asks no model. In the app, why not is for its owner."""
        nonlocal logged
        reason = ""
        try:
            service.check_open()
            await prepare()
        except Exception as error:
            failure = DemoError.of(error)
            reason = failure.public_message
            if reason != logged:
                log_failure(log, "not ready", failure, refused=False)
        logged = reason
        phase = await model_server() if model_server else "none"
        shown = reason if asked_by_owner(request) else reason and NOT_READY
        states = {"tracking": service.tracer.state, "model_server": phase}
        return JsonResponse({"ready": not reason, "reason": shown} | states, 503 if reason else 200)

    @router.get("/metrics", response_class=PlainTextResponse, dependencies=[OWNER])
    async def metrics(request: Request) -> Response:
        """Figures for Prometheus: turns by outcome, times, tokens, cost, limits, states; nobody's words."""
        if model_server:
            await model_server()  # so that the gauge does not show the state of an earlier look
        text, content_type = service.observer.exposition(request.headers.get("accept", ""))
        return Response(text, media_type=content_type)

    return router


class VersionBody(BaseModel):
    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"name": "dspy-demo"}]})

    name: str = Field(description="Name of the registered model; a new one is made.")
    description: str = Field("", description="What this version is.")
    tags: dict[str, Annotated[str, Field(max_length=2000)]] = Field({}, description="Your own tags.")
    program: str | None = Field(None, description="Which program; without it the app's first one.")


def versions_router(log_version: Callable[[str, str | None, str, dict[str, str]], Version]) -> APIRouter:
    """``POST /versions``; `log_version` takes name, program, description and tags, and blocks."""
    router = APIRouter(route_class=JsonRoute)

    @router.post("/versions", status_code=201, dependencies=[OWNER], responses=ERRORS)
    async def log_a_version(body: VersionBody) -> dict[str, str | int]:
        """Logs the program with the app's own model, as soon as a new process can load it: in seconds."""
        made = await asyncio.to_thread(log_version, body.name, body.program, body.description, body.tags)
        return {"name": made.name, "version": made.version, "uri": made.uri}

    return router
