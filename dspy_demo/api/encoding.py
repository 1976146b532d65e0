"""JSON out: fast where it can be, and valid whatever a model wrote."""

from __future__ import annotations

import json
from typing import Any

import orjson
from fastapi.responses import Response


def encode(value: Any) -> bytes:
    """`value` as JSON, with null for NaN and the infinities."""
    try:
        return orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS)
    except TypeError:  # half a surrogate pair, an integer beyond 64 bits: models do write those
        written = json.dumps(value, default=str)
        return json.dumps(json.loads(written, parse_constant=lambda _: None)).encode()


def sse(value: Any) -> bytes:
    """`value` as one server-sent event."""
    return b"data: " + encode(value) + b"\n\n"


class JsonResponse(Response):
    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return encode(content)
