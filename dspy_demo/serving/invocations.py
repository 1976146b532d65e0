"""MLflow's ``/invocations``, with its contract and without its traces and its queue of six threads."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from typing import Any

from fastapi.responses import Response
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dspy_demo.api.asking import Asker
from dspy_demo.api.streaming import while_connected
from dspy_demo.api.turn_ids import turn_id_header, under_given_id
from dspy_demo.chat import ChatService
from dspy_demo.errors import BodyTooLarge, BodyTooSlow, DemoError, InvalidInput
from dspy_demo.events import LMChoice, TurnFailed, TurnFinished, failed_from
from dspy_demo.logs import log_failure
from dspy_demo.programs.chat_program import chat_messages

log = logging.getLogger(__name__)

REFUSED = (
    'This version does not take such a body. Send {"messages": [{"role": "user", "content": "..."}]} as JSON.'
)
FAILED = "The version could not answer. The model server's log says why."


class Invocations:
    """The route. A chat runs as a turn of `service`; every other body goes to MLflow's own app.

    MLflow (3.17) runs each call in one of ``min(32, cores + 4)`` threads and puts the stack trace of a
    failure into the reply.
    """

    def __init__(
        self,
        scoring: ASGIApp,
        service: ChatService,
        default_lm: Callable[[], LMChoice],
        *,
        body_max_bytes: int,
        body_timeout_s: float,
    ) -> None:
        self._scoring = scoring
        self._service = service
        self._asker = Asker(service.programs, default_lm)
        self._body_max_bytes = body_max_bytes
        self._body_timeout_s = body_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        content_type = headers.get("content-type", "").partition(";")[0].strip().lower()
        try:
            body = await self._body(receive)
            if scope["method"] == "POST" and content_type == "application/json":
                messages = _messages(body)
                if messages is not None:
                    reply = await while_connected(receive, self._chat(messages, headers))
                    await (reply or Response(status_code=499))(scope, receive, send)
                    return
        except DemoError as error:
            log_failure(log, "request failed", error, route="/invocations")
            status = 400 if type(error) is InvalidInput else error.http_status
            await _failure(failed_from(error), status)(scope, receive, send)
            return
        await (await self._by_mlflow(scope, body, has_type=bool(content_type)))(scope, receive, send)

    async def _body(self, receive: Receive) -> bytes:
        try:
            async with asyncio.timeout(self._body_timeout_s):
                return await _read(receive, self._body_max_bytes)
        except TimeoutError:
            raise BodyTooSlow() from None

    async def _chat(self, messages: list[Any], headers: Headers) -> Response:
        """The same reply as MLflow's: one choice, whose content is the outputs as a JSON string."""
        if not all(isinstance(message, dict) for message in messages):
            raise InvalidInput(REFUSED)
        request = self._asker.chat(self._service.programs.default, chat_messages(messages), {})
        request = under_given_id(request, headers)
        self._service.check(request)
        end = await self._service.answer(request)
        if isinstance(end, TurnFailed):
            return _failure(end, end.http_status)
        return _choices(end, turn_id_header(request))

    async def _by_mlflow(self, scope: Scope, body: bytes, *, has_type: bool) -> Response:
        """MLflow's reply if it is a good one, else its status with a sentence of ours."""
        if scope["method"] == "POST" and not has_type:
            return _refusal(415, "UNSUPPORTED_MEDIA_TYPE", REFUSED)
        reply = _Recorded(body)
        try:
            await self._scoring(scope, reply.receive, reply.send)
        except Exception as error:
            log.error("invocation failed", exc_info=error)
            return _refusal(500, "INTERNAL_ERROR", FAILED)
        if reply.status < 400:
            return Response(bytes(reply.body), reply.status, media_type=reply.media_type)
        log.warning("invocation refused", extra={"status": reply.status})
        if reply.status < 500:
            # MLflow says 400 for a bad body and for a program that raises alike.
            raised = b'"stack_trace"' in reply.body
            return _refusal(reply.status, "BAD_REQUEST", FAILED if raised else REFUSED)
        return _refusal(reply.status, "INTERNAL_ERROR", FAILED)


def _messages(body: bytes) -> list[Any] | None:
    """The messages of a chat body; None for any other body."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        raise InvalidInput("The body is not valid JSON.") from None
    messages = content.get("messages") if isinstance(content, dict) else None
    return messages if isinstance(messages, list) else None


def _choices(end: TurnFinished, headers: dict[str, str]) -> Response:
    message = {"role": "assistant", "content": json.dumps(dict(end.outputs))}
    reply = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
    return Response(json.dumps(reply), headers=headers, media_type="application/json")


def _failure(failed: TurnFailed, status: int) -> Response:
    """MLflow's two keys, and ours, by which `backends.served` knows the error again."""
    content = {
        "error_code": "BAD_REQUEST" if status == 400 else failed.code.upper(),
        "message": failed.public_message,
        "status": "error",
        "code": failed.code,
        "retryable": failed.retryable,
        "error_id": failed.error_id,
    }
    return Response(json.dumps(content), status, media_type="application/json")


def _refusal(status: int, error_code: str, sentence: str) -> Response:
    content = json.dumps({"error_code": error_code, "message": sentence})
    return Response(content, status, media_type="application/json")


async def _read(receive: Receive, max_bytes: int) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return b""
        body += message.get("body", b"")
        if len(body) > max_bytes:
            raise BodyTooLarge(f"The body is larger than the limit of {max_bytes:,} bytes. Shorten it.")
        if not message.get("more_body", False):
            return bytes(body)


class _Recorded:
    """One request to an ASGI app, and its whole reply."""

    def __init__(self, body: bytes) -> None:
        self._body: bytes | None = body
        self.status = 500
        self.media_type = "application/json"
        self.body = bytearray()

    async def receive(self) -> Message:
        body, self._body = self._body, None
        if body is None:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            types = [value for name, value in message["headers"] if name.lower() == b"content-type"]
            self.media_type = types[0].decode("latin-1") if types else self.media_type
        else:
            self.body += message.get("body", b"")
