"""``/v1``: the programs as if they were models of OpenAI."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from dspy_demo.api.asking import Asker, visitor_of
from dspy_demo.api.encoding import JsonResponse, sse
from dspy_demo.api.openai_bodies import CompletionBody, Model, ModelList, OpenAIErrorBody, json_fields
from dspy_demo.api.openai_reply import Reply
from dspy_demo.api.problems import MethodNotAllowed, retry_headers
from dspy_demo.api.routes import json_route
from dspy_demo.api.streaming import EventStream, while_connected
from dspy_demo.api.turn_ids import turn_id_header, under_given_id
from dspy_demo.chat import ChatService
from dspy_demo.errors import NotFound, Stopped
from dspy_demo.events import (
    Event,
    TurnFailed,
    TurnFinished,
    TurnRequest,
    TurnStarted,
    Usage,
    Visitor,
    failed_from,
)
from dspy_demo.programs.spec import ProgramSpec

CHAT, MODELS = "/v1/chat/completions", "/v1/models"
_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"]


class NoSuchModel(NotFound):
    code = "model_not_found"


class NoSuchRoute(NotFound):
    default_message = (
        "This address is not one of the OpenAI-compatible routes here. "
        f"They are POST {CHAT}, GET {MODELS} and GET {MODELS}/NAME."
    )


def add_openai_routes(
    router: APIRouter, service: ChatService, asker: Asker, *, body_max_bytes: int, keep_alive_s: float
) -> None:
    """Put the ``/v1`` routes into a router."""
    body_timeout_s = service.settings.request_timeout_s
    route = json_route(openai_error, body_max_bytes=body_max_bytes, body_timeout_s=body_timeout_s, chat=True)
    started_at = int(time.time())

    async def complete(body: CompletionBody, request: Request) -> Response:
        """For any client of OpenAI: set its base URL to this server's address with `/v1`.

        The last user message is the question, earlier ones are the history. Reasoning is
        `reasoning_content`, the answer is `content`; several output fields are paragraphs `name: value`, or
        JSON where `response_format` asks for it. Tools that are offered are left aside.
        """
        visitor = visitor_of(request)
        spec = _program(asker, body.model, visitor)
        fields = json_fields(body.response_format, spec)
        asked = asker.chat(spec, body.chat, body.changes, visitor)
        turn_request = under_given_id(asked, request.headers)
        service.check(turn_request)
        reply = Reply(spec, fields=fields, stop=body.stop or ())
        head = {"id": f"chatcmpl-{turn_request.turn_id}", "created": int(time.time()), "model": spec.name}
        if body.stream:
            include_usage = body.stream_options is not None and body.stream_options.include_usage
            chunks = Chunks(reply, head, include_usage=include_usage)
            return EventStream(service, turn_request, chunks, keep_alive_s=keep_alive_s)
        whole = await while_connected(request.receive, _completion(service, turn_request, reply, head))
        return whole or Response(status_code=499)

    async def models(request: Request) -> Response:
        """The programs that you may ask for, each as a model."""
        data = [_model(spec, started_at) for spec in asker.programs(visitor_of(request))]
        return JsonResponse({"object": "list", "data": data})

    async def model(model_id: str, request: Request) -> Response:
        """One program, as a model."""
        return JsonResponse(_model(_program(asker, model_id, visitor_of(request)), started_at))

    async def elsewhere(request: Request) -> Response:
        path = "/v1/" + request.path_params.get("path", "")
        if path == CHAT:
            raise MethodNotAllowed("POST")
        if f"{path}/".startswith(f"{MODELS}/"):
            raise MethodNotAllowed("GET")
        raise NoSuchRoute()

    def add(path: str, endpoint: Any, methods: list[str], **options: Any) -> None:
        errors = options.pop("errors", ())
        options["responses"] = {status: {"model": OpenAIErrorBody} for status in errors}
        router.add_api_route(path, endpoint, methods=methods, route_class_override=route, **options)

    all_errors = (400, 404, 408, 413, 415, 422, 429, 502, 503, 504)
    add(CHAT, complete, ["POST"], summary="Chat completion", response_model=None, errors=all_errors)
    add(MODELS, models, ["GET"], summary="List the programs", response_model=ModelList)
    one = MODELS + "/{model_id:path}"
    add(one, model, ["GET"], summary="Describe a program", response_model=Model, errors=(404, 422))
    for path in ("/v1", "/v1/{path:path}"):
        add(path, elsewhere, _METHODS, include_in_schema=False)


def _program(asker: Asker, model: str, visitor: Visitor) -> ProgramSpec:
    try:
        return asker.program(model, visitor)
    except NotFound as error:
        raise NoSuchModel(error.public_message) from None


def _model(spec: ProgramSpec, created: int) -> dict[str, Any]:
    return {"id": spec.name, "object": "model", "created": created, "owned_by": "dspy-demo"}


async def _completion(
    service: ChatService, turn_request: TurnRequest, reply: Reply, head: dict[str, Any]
) -> Response:
    """Run a turn and answer with a whole chat completion."""
    said: defaultdict[str, str] = defaultdict(str)
    usage: dict[str, Any] = {}
    failed = failed_from(Stopped())
    async with service.turn(turn_request) as turn:
        async for event in turn:
            if isinstance(event, TurnFailed):
                failed = event
            elif isinstance(event, TurnFinished):
                said.update(reply.whole(event))
                usage = {"usage": usage_json(event.usage)}
            else:
                for part, text in reply.hear(event):
                    said[part] += text
            if reply.finish_reason is not None:  # it may be a stop text, in the middle of the turn
                break
    if reply.finish_reason is None:
        return openai_error(failed)
    message = {"role": "assistant", "content": said["content"]}
    if said["reasoning_content"]:
        message["reasoning_content"] = said["reasoning_content"]
    choice = {"index": 0, "message": message, "finish_reason": reply.finish_reason, "logprobs": None}
    content = {**head, "object": "chat.completion", "choices": [choice], **usage}
    return JsonResponse(content, headers=turn_id_header(turn_request))


class Chunks:
    """The events of one turn as the chunks of a streamed chat completion; an `api.streaming.Encoder`.

    Args:
        head: ``id``, ``created`` and ``model`` of every chunk.
        include_usage: Whether a last chunk tells the tokens. There is none where a stop text ended the turn
            before the model said how many there were.
    """

    def __init__(self, reply: Reply, head: dict[str, Any], *, include_usage: bool) -> None:
        self.ended = False
        self._reply = reply
        self._head = {**head, "object": "chat.completion.chunk"}
        self._include_usage = include_usage

    def __call__(self, event: Event) -> bytes:
        return b"".join(self._chunks(event))

    def _chunks(self, event: Event) -> Iterator[bytes]:
        if isinstance(event, TurnStarted):
            yield self._chunk({"role": "assistant", "content": ""})
        for part, text in self._reply.hear(event):
            yield self._chunk({part: text})
        if isinstance(event, TurnFailed):
            self.ended = True
            yield sse(error_json(event))
        if self._reply.finish_reason is not None:
            self.ended = True
            yield self._chunk({}, self._reply.finish_reason)
            if self._include_usage and isinstance(event, TurnFinished):
                yield sse({**self._head, "choices": [], "usage": usage_json(event.usage)})

    def _chunk(self, delta: dict[str, str], finish_reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        usage = {"usage": None} if self._include_usage else {}
        return sse({**self._head, "choices": [choice], **usage})


def usage_json(usage: Usage) -> dict[str, int]:
    """Tokens, as OpenAI counts them."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
    }


def openai_error(failed: TurnFailed, field: str = "") -> Response:
    """An error as an answer to ``/v1``, from which OpenAI's clients raise their own exceptions."""
    # OpenAI's SDK repeats every 429 and 5xx unless told that it is pointless.
    headers = {"x-should-retry": "true" if failed.retryable else "false"} | retry_headers(failed)
    return JsonResponse(error_json(failed, field), failed.http_status, headers)


def error_json(failed: TurnFailed, field: str = "") -> dict[str, Any]:
    """The body of an error, which is also the chunk of a failed stream."""
    kind = "invalid_request_error" if failed.http_status < 500 else "api_error"
    return {
        "error": {
            "message": failed.public_message,
            "type": "rate_limit_error" if failed.http_status == 429 else kind,
            "code": failed.code,
            "param": field or None,
            "error_id": failed.error_id,
        }
    }
