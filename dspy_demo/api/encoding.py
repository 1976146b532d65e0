"""JSON out: fast where it can be, and valid whatever a model wrote."""

from __future__ import annotations

import json
from typing import Any

import orjson
from fastapi.responses import Response


def encode(value: Any) -> bytes:
    """`value` as JSON bytes, with null for NaN and the infinities.

    orjson refuses what models do write: half a surrogate pair, integers beyond 64 bits. Those go by the
    standard library, escaped.
    """
    try:
        return orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS)
    except TypeError:
        written = json.dumps(value, default=str)
        return json.dumps(json.loads(written, parse_constant=lambda _: None)).encode()


def sse(value: Any) -> bytes:
    """`value` as one server-sent event."""
    return b"data: " + encode(value) + b"\n\n"


class JsonResponse(Response):
    """A response whose content `encode` writes."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return encode(content)
