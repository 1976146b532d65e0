"""``/docs``: the OpenAPI schema for people, with a curl line for every example.

FastAPI's own page loads Swagger UI from a CDN: blank offline, and a request that leaves the host.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse

from dspy_demo.templates import draw


def add_docs(app: FastAPI) -> None:
    """Document the routes of `app` at ``/docs``."""

    @app.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> HTMLResponse:
        schema, base_url = app.openapi(), str(request.base_url).rstrip("/")
        routes = list(_routes(schema, base_url))
        return HTMLResponse(draw("dspy_demo.api", "docs.html", info=schema["info"], routes=routes))


def _routes(schema: dict[str, Any], base_url: str) -> Iterator[dict[str, Any]]:
    """What the page shows of each route."""
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            body: dict[str, Any] = {}
            if "requestBody" in operation:
                content = operation["requestBody"]["content"]["application/json"]
                body = schema["components"]["schemas"].get(
                    content["schema"].get("$ref", "").split("/")[-1], {}
                )
            yield {
                "method": method.upper(),
                "path": path,
                "summary": operation["summary"],
                "description": operation.get("description", ""),
                "fields": body.get("properties", {}),
                "curls": [_curl(base_url + path, example) for example in body.get("examples", [None])],
                "errors": [status for status in operation["responses"] if status >= "400"],
            }


def _curl(url: str, body: Any) -> str:
    if body is None:
        return f"curl {shlex.quote(url)}"
    no_buffer = "-N " if "stream" in url or body.get("stream") else ""
    text = shlex.quote(json.dumps(body, ensure_ascii=False))
    return f"curl {no_buffer}{shlex.quote(url)} -H 'Content-Type: application/json' -d {text}"
