"""What went wrong, as one sentence and an HTTP status; never the input, an address or a trace."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi.responses import Response

from dspy_demo.api.encoding import JsonResponse
from dspy_demo.errors import InvalidInput
from dspy_demo.events import TurnFailed


class BadBody(InvalidInput):
    """The body is not what the route takes; `field` is where, or empty."""

    def __init__(self, public_message: str, field: str = "") -> None:
        super().__init__(public_message)
        self.field = field


class UnsupportedMediaType(InvalidInput):
    code, http_status = "unsupported_media_type", 415
    default_message = "Send the body as JSON, with the header “Content-Type: application/json”."


class MethodNotAllowed(InvalidInput):
    """`allow` is what the header of that name tells."""

    code, http_status = "method_not_allowed", 405
    default_message = "This address does not take that method; /docs shows what it takes."

    def __init__(self, allow: str) -> None:
        super().__init__()
        self.allow = allow


def own_error(failed: TurnFailed, field: str = "") -> Response:
    """An error as our own routes write it."""
    body = {
        "status": "error",
        "code": failed.code,
        "message": failed.public_message,
        "retryable": failed.retryable,
        "error_id": failed.error_id,
    }
    return JsonResponse(body, failed.http_status, retry_headers(failed))


def retry_headers(failed: TurnFailed) -> dict[str, str]:
    if failed.retry_after_s is None:
        return {}
    return {"Retry-After": str(max(1, math.ceil(failed.retry_after_s)))}


#: Pydantic's error types, as the end of a sentence that begins with the field.
_MUST_BE = {
    "missing": "is missing",
    "string_type": "must be text",
    "string_too_long": "must have at most {max_length} characters",
    "string_pattern_mismatch": "must have only letters, digits, dots, dashes and underscores",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a smaller number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "list_type": "must be a list",
    "too_short": "must not be empty",
    "too_long": "must have at most {max_length} entries",
    "dict_type": "must be a JSON object",
    "model_type": "must be a JSON object",
    "model_attributes_type": "must be a JSON object",
    "literal_error": "must be {expected}",
    "greater_than_equal": "must be at least {ge:g}",
    "less_than_equal": "must be at most {le:g}",
    "extra_forbidden": "is not known here",
}


def bad_body(errors: Sequence[Mapping[str, Any]]) -> BadBody:
    """The first of pydantic's errors as a sentence that names the field and never quotes its value."""
    first = min(errors, key=lambda error: error["type"] != "extra_forbidden")
    field = _path(first["loc"])
    if first["type"] == SENTENCE:
        return BadBody(first["msg"], field)
    if not field:
        return BadBody("The body must be a JSON object.")
    end = _MUST_BE.get(first["type"], "is not valid").format_map(first.get("ctx") or {})
    return BadBody(f"The field “{field}” {end}.", field)


#: The type of errors whose message is a whole sentence of ours already.
SENTENCE = "sentence"


def _path(location: Sequence[str | int]) -> str:
    """``("body", "messages", 0, "role")`` as ``messages[0].role``; a name that is none of ours is cut."""
    path = ""
    for part in location[1:]:
        if isinstance(part, int):
            path += f"[{part}]"
        else:
            name = part[:40] if part[:40].isidentifier() else "…"
            path += f".{name}" if path else name
    return path
