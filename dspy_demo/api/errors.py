"""Errors of the routes as JSON: a sentence and a status, in the form of the protocol that was asked."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pydantic_core
from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from dspy_demo.api.bodies import JsonResponse
from dspy_demo.errors import BodyTooLarge, DemoError, InvalidInput, NotFound
from dspy_demo.events import TurnFailed, error_body, failed_from
from dspy_demo.logs import log_failure

log = logging.getLogger(__name__)

#: Writes an error in the form of one protocol; the second argument is the field it is about, or empty.
DrawError = Callable[[TurnFailed, str], Response]
NOT_JSON = "The body is not valid JSON, or is nested too deeply."


class BadBody(InvalidInput):
    def __init__(self, public_message: str, field: str = "") -> None:
        super().__init__(public_message)
        self.field = field  # that is not what the route takes, or empty


class UnsupportedMediaType(InvalidInput):
    code, http_status = "unsupported_media_type", 415
    default_message = "Send the body as JSON, with the header “Content-Type: application/json”."


class MethodNotAllowed(InvalidInput):
    code, http_status = "method_not_allowed", 405
    default_message = "This address does not take that method; /docs shows what it takes."


async def _check_json(request: Request) -> None:
    """Let only strict JSON in: no NaN, half a surrogate pair, or nesting beyond 200 levels.

    A form on another site can post anything but this type without asking first.
    """
    if not re.match(r"\s*application/([^/;]+\+)?json\s*(;|$)", request.headers.get("content-type", ""), re.I):
        raise UnsupportedMediaType()
    try:
        pydantic_core.from_json(await request.body(), allow_inf_nan=False)
    except ValueError:
        raise BadBody(NOT_JSON) from None


#: For every route with a body: ``dependencies=[STRICT_JSON]``.
STRICT_JSON = Depends(_check_json)


def handle_errors(app: FastAPI, forms: Mapping[str, DrawError]) -> None:
    """Answer whatever fails in the routes as JSON; `forms` are of other protocols, by the start of a path."""

    async def answer(request: Request, error: Exception) -> Response:
        failure = _failure(error)
        route = getattr(request.scope.get("route"), "path", "")  # the path that was sent may be any text
        log_failure(log, "request failed", failure, route=route)
        path = request.scope["path"]
        draw = next((form for start, form in forms.items() if path.startswith(start)), own_error)
        response = draw(failed_from(failure), getattr(failure, "field", ""))
        response.headers.update(getattr(error, "headers", None) or {})
        return response

    for kind in (DemoError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, answer)


def _failure(error: Exception) -> DemoError:
    match error:
        case RequestValidationError():
            return _bad_body(error.errors())
        case HTTPException(status_code=400):  # FastAPI could not read it
            return BadBody(NOT_JSON)
        case HTTPException(status_code=404):
            return NotFound("There is nothing at this address; /docs shows the routes.")
        case HTTPException(status_code=405):
            return MethodNotAllowed()
        case HTTPException(status_code=413):
            return BodyTooLarge()
    return DemoError.of(error)


def _bad_body(errors: Sequence[Mapping[str, Any]]) -> BadBody:
    """The first of pydantic's errors as a sentence that names the field and never quotes its value."""
    first = min(errors, key=lambda error: error["type"] != "extra_forbidden")
    kind, message = first["type"], str(first["msg"])
    field = ".".join(map(str, first["loc"][1:]))
    if not re.fullmatch(r"[\w.]{0,60}", field):  # a name that is none of ours
        field = "…"
    if kind == "value_error":  # a whole sentence of ours
        return BadBody(str(first["ctx"]["error"]), field)
    if kind == "json_invalid" or not field:
        return BadBody(NOT_JSON if kind == "json_invalid" else "The body must be a JSON object.")
    if kind == "extra_forbidden":
        return BadBody(f"The field “{field}” is not known here.", field)
    return BadBody(f"The field “{field}” is not valid: {message[:1].lower()}{message[1:]}.", field)


def own_error(failed: TurnFailed, field: str = "") -> Response:
    return JsonResponse(error_body(failed), failed.http_status, retry_headers(failed))


def retry_headers(failed: TurnFailed) -> dict[str, str]:
    wait_s = failed.retry_after_s
    return {} if wait_s is None else {"Retry-After": str(max(1, math.ceil(wait_s)))}
