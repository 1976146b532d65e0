"""The route class of the API: reads JSON within bounds, and turns every failure into JSON.

Exception handlers belong to an application, and ours is sometimes Gradio's and sometimes MLflow's. A
route class goes wherever the route goes.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Coroutine
from email.message import Message as MimeMessage
from typing import Any

import orjson
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match
from starlette.types import Receive, Scope, Send

from dspy_demo.api.problems import BadBody, MethodNotAllowed, UnsupportedMediaType, bad_body
from dspy_demo.errors import BodyTooLarge, BodyTooSlow, DemoError
from dspy_demo.events import TurnFailed, failed_from
from dspy_demo.logs import log_failure

log = logging.getLogger(__name__)

#: Draws a failure; the second argument is the field of the body that it is about, or empty.
DrawError = Callable[[TurnFailed, str], Response]

#: Longest body of a chat whose earlier messages may hold pictures or files, which come along every time.
CHAT_BODY_MAX_BYTES = 8 * 1024 * 1024
#: Such a picture or file: the value of a key, as OpenAI names it.
_FILE = re.compile(rb'("(?:url|file_data)"\s*:\s*)"data:[^"\\]*"')

#: Deeper than any real input, and far from Python's recursion limit.
JSON_MAX_DEPTH = 64


def json_route(
    draw_error: DrawError, *, body_max_bytes: int, body_timeout_s: float, chat: bool = False
) -> type[APIRoute]:
    """A route class whose errors `draw_error` draws and whose bodies are bounded in size and time.

    Args:
        body_max_bytes: Longest body that is parsed.
        chat: Bodies are OpenAI's messages. Their pictures and files are cut out of a longer body first, since
            nothing here reads them and they would refuse every later question of their chat.
    """

    def drawn(error: DemoError, request: Request) -> Response:
        # The path of the route, since the one that was sent may be any text.
        log_failure(log, "request failed", error, route=getattr(request.scope.get("route"), "path", ""))
        response = draw_error(failed_from(error), getattr(error, "field", ""))
        if isinstance(error, MethodNotAllowed):
            response.headers["Allow"] = error.allow
        if isinstance(error, BodyTooSlow):
            response.headers["Connection"] = "close"  # the rest of the body is not waited for
        return response

    class JsonRoute(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()
            takes_body = self.body_field is not None

            async def handle_json(request: Request) -> Response:
                try:
                    if takes_body:
                        request = await JsonRequest.read(request, body_max_bytes, body_timeout_s, chat=chat)
                    return await handle(request)
                except DemoError as error:
                    return drawn(error, request)
                except RequestValidationError as error:
                    return drawn(bad_body(error.errors()), request)
                except ClientDisconnect:
                    return Response(status_code=499)
                except HTTPException:
                    raise
                except Exception as error:
                    return drawn(DemoError.of(error), request)

            return handle_json

        def matches(self, scope: Scope) -> tuple[Match, Scope]:
            return super().matches(self._without_head(scope))

        def _without_head(self, scope: Scope) -> Scope:
            """HEAD, which monitors ask, is GET to a route; the server leaves the body of the answer out."""
            is_head = scope.get("method") == "HEAD" and "GET" in (self.methods or ())
            return {**scope, "method": "GET"} if is_head else scope

        async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
            methods = self.methods or {"GET"}
            scope = self._without_head(scope)
            if scope["method"] in methods:
                await super().handle(scope, receive, send)
                return
            refusal = drawn(MethodNotAllowed(", ".join(sorted(methods))), Request(scope))
            await refusal(scope, receive, send)

    return JsonRoute


class JsonRequest(Request):
    """A request whose JSON body has been read already."""

    @classmethod
    async def read(
        cls, request: Request, max_bytes: int, timeout_s: float, *, chat: bool = False
    ) -> JsonRequest:
        """Read the body.

        Raises:
            UnsupportedMediaType: It is not JSON by its header. A form on another site can post
                anything but this without asking first, so that the header also guards against that.
            BodyTooLarge: It is longer than `max_bytes`, that of a chat also without its files. The rest is
                not read.
            BodyTooSlow: It takes longer than `timeout_s` to arrive.
            BadBody: It is not JSON, or nested too deeply.
        """
        if not _says_json(request.headers.get("content-type", "")):
            raise UnsupportedMediaType()
        try:
            async with asyncio.timeout(timeout_s):
                raw = await _read_bounded(request, CHAT_BODY_MAX_BYTES if chat else max_bytes)
        except TimeoutError:
            raise BodyTooSlow() from None
        if len(raw) > max_bytes:
            raw = _FILE.sub(rb'\1"data:,"', raw)
        if len(raw) > max_bytes:
            raise _too_large(max_bytes)
        bounded = cls(request.scope, request.receive)
        bounded._raw, bounded._parsed = raw, _parse(raw)
        return bounded

    _raw: bytes
    _parsed: Any

    async def body(self) -> bytes:
        return self._raw

    async def json(self) -> Any:
        return self._parsed


def _says_json(content_type: str) -> bool:
    header = MimeMessage()
    header["content-type"] = content_type
    subtype = header.get_content_subtype()
    return header.get_content_maintype() == "application" and (subtype == "json" or subtype.endswith("+json"))


async def _read_bounded(request: Request, max_bytes: int) -> bytes:
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared[:20]) > max_bytes:
        raise _too_large(max_bytes)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            raise _too_large(max_bytes)
    return bytes(body)


def _too_large(max_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(f"The body is larger than the limit of {max_bytes:,} bytes. Shorten it.")


def _parse(raw: bytes) -> Any:
    """The JSON of a body. orjson refuses NaN, infinities, lone surrogates and invalid UTF-8.

    Raises:
        BadBody: It is not valid JSON, or nested too deeply.
    """
    if not raw.strip():
        raise BadBody("The body is empty; send a JSON object.")
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError:
        raise BadBody("The body is not valid JSON.") from None
    level = [value]
    for _ in range(JSON_MAX_DEPTH):
        level = [
            item
            for outer in level
            if isinstance(outer, dict | list)
            for item in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return value
    raise BadBody(f"The body is nested more than {JSON_MAX_DEPTH} levels deep.")
