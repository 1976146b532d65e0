"""The documentation of the routes: ``/openapi.json`` for programs, ``/docs`` for people.

FastAPI's own page loads Swagger UI from a CDN: blank offline, and a request that leaves the host. This
one is plain HTML from the same schema, with a curl line for every example.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator
from html import escape
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Route

from dspy_demo import __version__
from dspy_demo.api.encoding import JsonResponse
from dspy_demo.api.router import KEEP_ALIVE_S, build_router
from dspy_demo.chat import ChatService
from dspy_demo.events import LMChoice

TITLE = "DSPy demo"
DESCRIPTION = (
    "Ask the programs of this app. Errors are JSON with a stable `code`, one sentence as `message`, "
    "and whether the same request is `retryable`."
)


def build_routes(
    service: ChatService, default_lm: Callable[[], LMChoice], *, keep_alive_s: float = KEEP_ALIVE_S
) -> list[BaseRoute]:
    """The routes of `build_router` and their documentation, for an app that takes a list of routes.

    For Gradio: ``demo.launch(app_kwargs={"routes": build_routes(...)})``. They stand before Gradio's.
    """
    return with_docs(build_router(service, default_lm, keep_alive_s=keep_alive_s))


def build_api(
    service: ChatService, default_lm: Callable[[], LMChoice], *, keep_alive_s: float = KEEP_ALIVE_S
) -> FastAPI:
    """The same as an application of its own, without a page."""
    return FastAPI(
        routes=build_routes(service, default_lm, keep_alive_s=keep_alive_s),
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
    )


def with_docs(router: APIRouter) -> list[BaseRoute]:
    """A router's routes, and two that document just these."""
    schema = get_openapi(title=TITLE, version=__version__, description=DESCRIPTION, routes=router.routes)

    async def openapi(request: Request) -> Response:
        return JsonResponse(schema)

    async def docs(request: Request) -> Response:
        return HTMLResponse(docs_page(schema, str(request.base_url).rstrip("/")))

    return [*router.routes, Route("/openapi.json", openapi), Route("/docs", docs)]


def docs_page(schema: dict[str, Any], base_url: str) -> str:
    """The schema as a page."""
    operations = "".join(
        _operation(schema, base_url, method.upper(), path, operation)
        for path, methods in schema["paths"].items()
        for method, operation in methods.items()
    )
    return _PAGE.format(
        title=escape(schema["info"]["title"]),
        version=escape(schema["info"]["version"]),
        description=_code(schema["info"]["description"]),
        operations=operations,
    )


def _operation(
    schema: dict[str, Any], base_url: str, method: str, path: str, operation: dict[str, Any]
) -> str:
    body = _body_schema(schema, operation)
    examples = body.get("examples", [None]) if body else [None]
    curls = "\n".join(_curl(method, base_url + path, example) for example in examples)
    rows = "".join(_row(name, field) for name, field in body.get("properties", {}).items())
    errors = ", ".join(status for status in operation["responses"] if status >= "400")
    return (
        f"<section><h2><b>{method}</b> {escape(path)}</h2><p>{escape(operation.get('summary', ''))}.</p>"
        f"{_paragraphs(operation.get('description', ''))}"
        f"{f'<table>{rows}</table>' if rows else ''}<pre>{escape(curls)}</pre>"
        f"{f'<p class=errors>Errors: {errors}</p>' if errors else ''}</section>"
    )


def _body_schema(schema: dict[str, Any], operation: dict[str, Any]) -> dict[str, Any]:
    if "requestBody" not in operation:
        return {}
    reference = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    found: dict[str, Any] = schema["components"]["schemas"][reference.rsplit("/", 1)[-1]]
    return found


def _row(name: str, field: dict[str, Any]) -> str:
    cells = (
        f"<code>{escape(name)}</code>",
        escape(field.get("type", "")),
        _code(field.get("description", "")),
    )
    return "<tr><th scope=row>{}</th><td>{}</td><td>{}</td></tr>".format(*cells)


def _curl(method: str, url: str, body: Any) -> str:
    if body is None:
        return f"curl {shlex.quote(url)}"
    no_buffer = "-N " if "stream" in url or body.get("stream") else ""
    text = shlex.quote(json.dumps(body, ensure_ascii=False))
    return f"curl {no_buffer}{shlex.quote(url)} -H 'Content-Type: application/json' -d {text}"


def _paragraphs(text: str) -> str:
    return "".join(
        "<ul>" + "".join(f"<li>{_code(item)}</li>" for item in block[2:].split("\n- ")) + "</ul>"
        if block.startswith("- ")
        else f"<p>{_code(block)}</p>"
        for block in text.split("\n\n")
    )


def _code(text: str) -> str:
    """Escaped text with `back-ticks` as code."""
    return "".join(_spans(escape(text)))


def _spans(text: str) -> Iterator[str]:
    for number, part in enumerate(text.split("`")):
        yield f"<code>{part}</code>" if number % 2 else part


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}: API</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 800px; margin: 48px auto; padding: 0 16px; }}
h2 {{ font: 600 18px ui-monospace, monospace; margin: 48px 0 8px; overflow-wrap: anywhere; }}
code, pre {{ font: 14px/1.5 ui-monospace, monospace; }}
pre {{ background: color-mix(in srgb, currentColor 7%, transparent); padding: 12px 16px; border-radius: 8px;
  white-space: pre-wrap; overflow-wrap: anywhere; }}
ul {{ padding-left: 20px; }}
table {{ border-collapse: collapse; margin: 16px 0; font-size: 14px; }}
th, td {{ text-align: left; vertical-align: top; padding: 4px 16px 4px 0; font-weight: 400; }}
.errors {{ font-size: 14px; }}
</style></head><body><main>
<h1>{title} <small>{version}</small></h1><p>{description}</p>
<p>For programs: <a href="openapi.json">openapi.json</a></p>
{operations}
</main></body></html>
"""
