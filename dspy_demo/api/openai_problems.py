"""Errors as OpenAI writes them, so that its clients raise their own exceptions."""

from __future__ import annotations

from typing import Any

from fastapi.responses import Response

from dspy_demo.api.encoding import JsonResponse
from dspy_demo.api.problems import retry_headers
from dspy_demo.events import TurnFailed


def openai_error(failed: TurnFailed, field: str = "") -> Response:
    """An error as an answer to ``/v1``."""
    # The SDK repeats every 429 and 5xx unless told that it is pointless (openai 2.x, _base_client.py).
    headers = {"x-should-retry": "true" if failed.retryable else "false"} | retry_headers(failed)
    return JsonResponse(error_json(failed, field), failed.http_status, headers)


def error_json(failed: TurnFailed, field: str = "") -> dict[str, Any]:
    """The body of an error, which is also the chunk of a failed stream."""
    return {
        "error": {
            "message": failed.public_message,
            "type": _type(failed.http_status),
            "code": failed.code,
            "param": field or None,
            "error_id": failed.error_id,
        }
    }


def _type(http_status: int) -> str:
    if http_status == 429:
        return "rate_limit_error"
    return "invalid_request_error" if http_status < 500 else "api_error"
