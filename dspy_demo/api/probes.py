"""For those who watch a server: ``/ready`` and ``/metrics``, of the app and of the model server alike."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from dspy_demo.api.encoding import JsonResponse
from dspy_demo.api.problems import own_error
from dspy_demo.api.routes import json_route
from dspy_demo.chat import ChatService
from dspy_demo.errors import DemoError
from dspy_demo.logs import log_failure
from dspy_demo.metrics import Metrics
from dspy_demo.tracing.base import NoTracer

log = logging.getLogger(__name__)

#: Instead of the reason, which may name models and addresses.
NOT_READY = "It cannot answer now. Its owner is told why at this address."


class Ready(BaseModel):
    """Whether a question can be answered now."""

    ready: bool
    reason: str = Field(description="Why not, in one sentence; empty where it can.", examples=[""])
    tracking: str = Field(
        description="`ok`, `failing` (answers are not recorded now, the chat goes on) or `off`.",
        examples=["ok"],
    )
    model_server: str = Field(
        description="State of the app's model server: `ready`, `starting`, `failed`, `hung`, ...; or `none`.",
        examples=["none"],
    )


class Readiness:
    """Tells whether `service` can answer. What is only beside the chat is told and does not count.

    Args:
        prepare: Builds the program and the model of a turn, or finds them built; raises why it cannot.
        model_server: Asks the app's model server for its state.
    """

    def __init__(
        self,
        service: ChatService,
        prepare: Callable[[], Awaitable[object]],
        model_server: Callable[[], Awaitable[str]] | None = None,
    ) -> None:
        self._service = service
        self._prepare = prepare
        self._model_server = model_server
        self._told = ""

    async def __call__(self) -> Ready:
        reason, model_server = await self._reason(), await self.model_server()
        return Ready(ready=not reason, reason=reason, tracking=self._tracking(), model_server=model_server)

    async def model_server(self) -> str:
        """The state of the app's model server as it is now."""
        return await self._model_server() if self._model_server else "none"

    async def _reason(self) -> str:
        try:
            self._service.check_open()
            await self._prepare()
        except Exception as error:
            failure = DemoError.of(error)
            if failure.public_message != self._told:  # it is asked every few seconds
                self._told = failure.public_message
                log_failure(log, "not ready", failure, refused=False)
            return failure.public_message
        self._told = ""
        return ""

    def _tracking(self) -> str:
        tracer = self._service.tracer
        return "off" if isinstance(tracer, NoTracer) else "failing" if tracer.notice else "ok"


def _may_know(request: Request) -> bool:
    """The owner; around a model server there is no guard that would name visitors."""
    if not hasattr(request.state, "visitor"):
        return True
    visitor = request.state.visitor
    return visitor is not None and bool(visitor.role == "owner")


def probes_router(metrics: Metrics, readiness: Readiness) -> APIRouter:
    """The two routes, to be included in a server's own router."""
    router = APIRouter(route_class=json_route(own_error, body_max_bytes=0, body_timeout_s=1))

    @router.get(
        "/ready",
        summary="Can it answer a question?",
        response_model=Ready,
        responses={503: {"model": Ready, "description": "Not now; `reason` says why"}},
    )
    async def ready(request: Request) -> Response:
        """Asks no model. Not ready: the program or the model cannot be built, or the app shuts down.

        In the app anybody may ask; why it is not ready is for its owner.
        """
        answer = await readiness()
        if answer.reason and not _may_know(request):
            answer.reason = NOT_READY
        return JsonResponse(answer.model_dump(), 200 if answer.ready else 503)

    @router.get("/metrics", summary="Figures for Prometheus", response_class=Response, responses={200: _TEXT})
    async def figures(request: Request) -> Response:
        """Turns by outcome, times, tokens, cost, limits that were hit, and states; nobody's words."""
        await readiness.model_server()  # so that the gauge does not show the state of an earlier look
        text, content_type = metrics.exposition(request.headers.get("accept", ""))
        return Response(text, media_type=content_type)

    return router


_TEXT: dict[str, object] = {
    "description": "In Prometheus' text format",
    "content": {
        "text/plain": {
            "schema": {"type": "string"},
            "example": 'dspy_demo_turns_total{backend="local",outcome="finished",code=""} 12.0\n',
        }
    },
}
