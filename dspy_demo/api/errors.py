"""Errors of the routes as JSON: a sentence and a status, in the form of the protocol that was asked."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import pydantic_core
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from dspy_demo.api.bodies import JsonResponse
from dspy_demo.errors import BodyTooLarge, DemoError, InvalidInput, NotFound
from dspy_demo.events import TurnFailed, error_body, failed_from
from dspy_demo.logs import log_failure

log = logging.getLogger(__name__)

#: Writes an error in the form of one protocol.
DrawError = Callable[[TurnFailed], Response]
NOT_JSON = "The body must be a JSON object, not nested too deeply, sent as “Content-Type: application/json”."


class _StrictRequest(Request):
    async def json(self) -> Any:
        return pydantic_core.from_json(await self.body(), allow_inf_nan=False)


class JsonRoute(APIRoute):
    """A route that takes strict JSON only: no NaN, half a surrogate pair, or nesting beyond 200 levels."""

    def get_route_handler(self) -> Callable[[Request], Any]:
        handle = super().get_route_handler()

        async def strict(request: Request) -> Response:
            return await handle(_StrictRequest(request.scope, request.receive))

        return strict


def handle_errors(app: FastAPI, forms: Mapping[str, DrawError]) -> None:
    """Answer whatever fails in the routes as JSON; `forms` are of other protocols, by the start of a path."""

    async def answer(request: Request, error: Exception) -> Response:
        failure = _failure(error)
        route = getattr(request.scope.get("route"), "path", "")  # the path that was sent may be any text
        log_failure(log, "request failed", failure, route=route)
        path = request.scope["path"]
        draw = next((form for start, form in forms.items() if path.startswith(start)), own_error)
        return draw(failed_from(failure))

    for kind in (DemoError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, answer)


def _failure(error: Exception) -> DemoError:
    match error:
        case RequestValidationError():
            return _bad_body(error)
        case HTTPException(status_code=413):
            return BodyTooLarge()
        case HTTPException(status_code=404 | 405):
            return NotFound()
        case HTTPException():  # FastAPI could not read the body
            return InvalidInput(NOT_JSON)
    return DemoError.of(error)


def _bad_body(error: RequestValidationError) -> InvalidInput:
    """The first of pydantic's errors as a sentence that names the field and never quotes its value."""
    first = error.errors()[0]
    field, message = ".".join(map(str, first["loc"][1:])), str(first["msg"])
    if first["type"] == "value_error":  # a whole sentence of ours
        return InvalidInput(message.removeprefix("Value error, "))
    if not field:
        return InvalidInput(NOT_JSON)
    if not re.fullmatch(r"[\w.]{1,60}", field):  # a name that is none of ours
        field = "…"
    return InvalidInput(f"The field “{field}” is not valid: {message[:1].lower()}{message[1:]}.")


def own_error(failed: TurnFailed) -> Response:
    return JsonResponse(error_body(failed), failed.http_status, retry_headers(failed))


def retry_headers(failed: TurnFailed) -> dict[str, str]:
    wait_s = failed.retry_after_s
    return {} if wait_s is None else {"Retry-After": str(max(1, math.ceil(wait_s)))}
