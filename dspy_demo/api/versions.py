"""``POST /versions``: the owner logs a version from a script. Only the app has it, not the model server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated, Protocol

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from dspy_demo.api.asking import visitor_of
from dspy_demo.api.bodies import ErrorBody
from dspy_demo.api.encoding import JsonResponse
from dspy_demo.api.problems import own_error
from dspy_demo.api.routes import json_route
from dspy_demo.errors import Forbidden

BODY_MAX_BYTES = 200_000
BODY_TIMEOUT_S = 15.0
Tag = Annotated[str, Field(max_length=2000)]


class LoggedVersion(Protocol):
    """What the route tells of a version."""

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> int: ...
    @property
    def uri(self) -> str: ...


#: Logs (name, program or None, description, tags). It blocks, and knows MLflow.
LogVersion = Callable[[str, str | None, str, dict[str, str]], LoggedVersion]


class VersionBody(BaseModel):
    """What to log, and as what."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(description="Name of the registered model; a new one is made.", examples=["dspy-demo"])
    description: str = Field("", description="What this version is.")
    tags: dict[str, Tag] = Field(default_factory=dict, description="Your own tags.")
    program: str | None = Field(None, description="Which program; without it the app's first one.")


class VersionMade(BaseModel):
    """The registered version."""

    name: str
    version: int
    uri: str = Field(examples=["models:/dspy-demo/3"])


def versions_router(log_version: LogVersion) -> APIRouter:
    """The route, to be included in the app's own router. Only the owner may use it."""
    route = json_route(own_error, body_max_bytes=BODY_MAX_BYTES, body_timeout_s=BODY_TIMEOUT_S)
    router = APIRouter(route_class=route)

    @router.post(
        "/versions",
        summary="Log a version (owner)",
        status_code=201,
        response_model=VersionMade,
        responses={
            400: {"model": ErrorBody, "description": "No new process can load it, or it holds a secret"},
            403: {"model": ErrorBody, "description": "Only the owner may do that"},
            404: {"model": ErrorBody, "description": "No such program"},
            408: {"model": ErrorBody, "description": "The body did not arrive in time"},
            413: {"model": ErrorBody, "description": "The body is too long"},
            415: {"model": ErrorBody, "description": "The body is not JSON"},
            422: {"model": ErrorBody, "description": "The body is not valid"},
            503: {"model": ErrorBody, "description": "MLflow cannot be reached"},
        },
    )
    async def log(body: VersionBody, request: Request) -> Response:
        """Logs the program with the app's own model, as soon as a new process could load it.

        That takes seconds. No language model is called.
        """
        if visitor_of(request).role != "owner":
            raise Forbidden()
        made = await asyncio.to_thread(log_version, body.name, body.program, body.description, body.tags)
        content = {"name": made.name, "version": made.version, "uri": made.uri}
        return JsonResponse(content, 201)

    return router
