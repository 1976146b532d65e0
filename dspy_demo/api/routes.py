"""The API as an application: our own routes, OpenAI's, and those that the app or the model server adds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import HTMLResponse, Response, StreamingResponse

from dspy_demo import __version__
from dspy_demo.api import openai_chat
from dspy_demo.api.bodies import ERRORS, JsonResponse, PredictBody, Prediction, sse
from dspy_demo.api.errors import DrawError, JsonRoute, handle_errors, own_error
from dspy_demo.api.turns import DONE, Asked, Asking, event_stream, whole_answer
from dspy_demo.chat import ChatService
from dspy_demo.events import Event, LMChoice, Message, TurnFailed, TurnFinished, TurnRequest, to_wire
from dspy_demo.templates import draw
from dspy_demo.web.middleware import BODY_MAX_BYTES

DESCRIPTION = "Ask the programs of this app. Errors are JSON: a stable `code`, a `message`, `retryable`."
_EXAMPLE = 'data: {"type":"delta","field":"answer","text":"4"}\n\n'
_STREAM = {"description": "Its events", "content": {"text/event-stream": {"example": _EXAMPLE}}}


def build_api(
    service: ChatService,
    default_lm: Callable[[], LMChoice],
    *routers: APIRouter,
    title: str = "DSPy demo",
    errors: Mapping[str, DrawError] | None = None,
    lifespan: Callable[[Any], Any] | None = None,
) -> FastAPI:
    """The application, with its documentation at ``/docs`` and ``/openapi.json``.

    `errors` tell how further protocols write an error, by the beginning of their paths.
    """
    about: dict[str, Any] = {"title": title, "description": DESCRIPTION, "version": __version__}
    app = FastAPI(lifespan=lifespan, max_body_size=BODY_MAX_BYTES, docs_url=None, redoc_url=None, **about)
    app.state.service, app.state.default_lm = service, default_lm
    for each in (*routers, router, openai_chat.router):
        app.include_router(each)
    handle_errors(app, {"/v1": openai_chat.openai_error} | dict(errors or {}))

    @app.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> HTMLResponse:
        """The schema for people. FastAPI's own page loads its script from a CDN: blank offline."""
        base = str(request.base_url).rstrip("/")
        return HTMLResponse(draw("dspy_demo.api", "docs.html", schema=app.openapi(), base=base))

    return app


router = APIRouter(route_class=JsonRoute)


@router.post("/predict", response_model=Prediction, responses=ERRORS)
async def predict(body: PredictBody, asked: Asked) -> Response:
    """Runs the program once and gives the whole answer. If you hang up, the turn is stopped."""

    def finished(end: TurnFinished) -> Response:
        final = to_wire(end)
        kept = {key: final[key] for key in ("usage", "elapsed_s", "trace_id", "finish_reason")}
        return JsonResponse({"status": "success", "data": final["prediction"], **kept})

    return await whole_answer(asked, _turn(asked, body), finished=finished, failed=own_error)


@router.post("/predict/stream", response_class=StreamingResponse, responses=ERRORS | {200: _STREAM})
async def predict_stream(body: PredictBody, asked: Asked) -> Response:
    """Server-sent events, one JSON object each, with `type`:

    - `started`: `backend`, `model`, `incremental` (false where tokens cannot come live)
    - `status`: `text`, `state`, `key`: a tool call, a retry, or before `started` the place in the queue;
      the same `key` is the same line
    - `delta`: more `text` of the output field `field`; `channel` is reasoning, answer or tool
    - `final`: `prediction` with every output field, which replaces the deltas; `usage`, `trace_id`;
      `finish_reason` is `length` or `content_filter` where the reply was cut
    - `error`: `code`, `message`, `retryable`, `error_id`

    The last line is `data: [DONE]`; a stream without it was cut. Hang up to stop the turn.
    """
    return event_stream(asked, _turn(asked, body), encode_event)


@router.head("/health", include_in_schema=False)
@router.get("/health")
async def health() -> dict[str, str]:
    """Whether the server is up; asks no model."""
    return {"status": "ok", "version": __version__}


def _turn(asked: Asking, body: PredictBody) -> TurnRequest:
    spec = asked.programs()[0] if body.program is None else asked.program(body.program)
    changes: dict[str, Any] = body.model_dump(include={"temperature", "max_tokens", "cache"})
    changes["session_id"] = body.session_id or ""
    earlier = [Message(each.role, each.content) for each in body.messages or body.history or []]
    if body.messages is not None:
        return asked.chat(spec, earlier, **changes)
    inputs = {spec.chat_field: body.text} if body.inputs is None else body.inputs
    return asked.turn(spec, inputs, earlier, **changes)


def encode_event(event: Event) -> bytes:
    """The JSON object that `events.event_from_wire` reads."""
    return sse(to_wire(event)) + (DONE if isinstance(event, TurnFinished | TurnFailed) else b"")
