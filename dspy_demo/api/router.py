"""The routes of the API: in the app's own server and, unchanged, in the model server."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import APIRouter, Request
from fastapi.responses import Response

from dspy_demo import __version__
from dspy_demo.api.asking import Asker, visitor_of
from dspy_demo.api.bodies import ErrorBody, Health, PredictBody, Prediction
from dspy_demo.api.encoding import JsonResponse, sse
from dspy_demo.api.openai_chat import add_openai_routes
from dspy_demo.api.problems import own_error
from dspy_demo.api.routes import json_route
from dspy_demo.api.streaming import EventStream, while_connected
from dspy_demo.api.turn_ids import turn_id_header, under_given_id
from dspy_demo.chat import ChatService
from dspy_demo.events import Event, LMChoice, TurnFailed, TurnFinished, to_wire

#: A proxy or a browser gives up on a silent connection after 30 to 60 s.
KEEP_ALIVE_S = 15.0


def build_router(
    service: ChatService, default_lm: Callable[[], LMChoice], *, keep_alive_s: float = KEEP_ALIVE_S
) -> APIRouter:
    """Every route of the API, to put into any FastAPI or Starlette application.

    Args:
        service: Runs the turns; its registry's programs are the ones that can be asked for.
        default_lm: The model that answers, as its owner chose it; asked at each request. A guest who may
            not use it gets the one that the service's allowance has for guests.
        keep_alive_s: Seconds of silence after which a stream gets a comment.
    """
    asker = Asker(service.programs, default_lm, service.allowance)
    # A character is at most four bytes, or six as \\uXXXX; the rest is for names and brackets.
    body_max_bytes = service.settings.input_max_chars * 8 + 65_536
    body_timeout_s = service.settings.request_timeout_s
    own_route = json_route(own_error, body_max_bytes=body_max_bytes, body_timeout_s=body_timeout_s)
    router = APIRouter(route_class=own_route)

    @router.post(
        "/predict", summary="Ask and wait for the whole answer", response_model=Prediction, responses=_ERRORS
    )
    async def predict(body: PredictBody, request: Request) -> Response:
        """Runs the program once. If you hang up, the turn is stopped."""
        turn_request = under_given_id(asker.predict(body, visitor_of(request)), request.headers)
        service.check(turn_request)
        end = await while_connected(request.receive, service.answer(turn_request))
        if isinstance(end, TurnFinished):
            return JsonResponse(prediction_json(end), headers=turn_id_header(turn_request))
        return own_error(end) if isinstance(end, TurnFailed) else Response(status_code=499)

    @router.post(
        "/predict/stream",
        summary="Ask and watch the answer come",
        response_class=EventStream,
        responses=_STREAM_ERRORS | {200: _STREAM},
    )
    async def predict_stream(body: PredictBody, request: Request) -> Response:
        """Server-sent events, one JSON object each, with `type`:

        - `started`: `backend`, `model`, `incremental` (false where tokens cannot come live)
        - `status`: `text`, `state`, `key`: a tool call or a retry; the same `key` is the same line. While the
          turn waits in line, before `started`, the `key` is `queue` and the `text` tells the place
        - `delta`: more `text` of the output field `field`; `channel` is reasoning, answer or tool
        - `final`: `prediction` with every output field, which replaces the deltas; `usage`, `trace_id`;
          `finish_reason` is `length` or `content_filter` where the reply was cut, and fields may be missing
        - `error`: `code`, `message`, `retryable`, `error_id`

        The last line is `data: [DONE]`; a stream without it was cut. Hang up to stop the turn.
        """
        turn_request = under_given_id(asker.predict(body, visitor_of(request)), request.headers)
        service.check(turn_request)
        return EventStream(service, turn_request, WireEvents(), keep_alive_s=keep_alive_s)

    @router.get("/health", summary="Is the server up?", response_model=Health)
    async def health() -> Response:
        """Cheap; asks no model."""
        return JsonResponse({"status": "ok", "version": __version__})

    add_openai_routes(router, service, asker, body_max_bytes=body_max_bytes, keep_alive_s=keep_alive_s)
    return router


class WireEvents:
    """Each event as the JSON object that `event_from_wire` reads."""

    ended = False

    def __call__(self, event: Event) -> bytes:
        self.ended = isinstance(event, TurnFinished | TurnFailed)
        return sse(to_wire(event))


def prediction_json(end: TurnFinished) -> dict[str, object]:
    """The body of a whole answer."""
    final = to_wire(end)
    return {
        "status": "success",
        "data": final["prediction"],
        "usage": final["usage"],
        "elapsed_s": final["elapsed_s"],
        "trace_id": final["trace_id"],
        "finish_reason": final["finish_reason"],
    }


_ERRORS: dict[int | str, dict[str, object]] = {
    404: {"model": ErrorBody, "description": "No such program"},
    408: {"model": ErrorBody, "description": "The body did not arrive in time"},
    413: {"model": ErrorBody, "description": "The input is too long; no model was called"},
    415: {"model": ErrorBody, "description": "The body is not JSON"},
    422: {"model": ErrorBody, "description": "The body is not valid"},
    429: {
        "model": ErrorBody,
        "description": "A limit of this app is reached, or the model asks to slow down; see `Retry-After`",
    },
    502: {"model": ErrorBody, "description": "The model failed"},
    503: {"model": ErrorBody, "description": "The model cannot be reached"},
    504: {"model": ErrorBody, "description": "The model took too long"},
}

# FastAPI would document a `model` under the media type of the route, but a refusal is JSON here too.
_STREAM_ERRORS: dict[int | str, dict[str, object]] = {
    status: {
        "description": error["description"],
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorBody"}}},
    }
    for status, error in _ERRORS.items()
}

_STREAM: dict[str, object] = {
    "description": "The events of the turn",
    "content": {
        "text/event-stream": {
            "example": (
                'data: {"type":"started","backend":"local","model":"demo/engine","incremental":true}\n\n'
                'data: {"type":"delta","field":"answer","channel":"answer","text":"4","step":"predict"}\n\n'
                'data: {"type":"final","prediction":{"answer":"4"}}\n\n'
                "data: [DONE]\n\n"
            ),
        }
    },
}
