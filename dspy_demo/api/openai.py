"""``/v1``: the programs as if they were models of OpenAI."""

from __future__ import annotations

import time
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from dspy_demo.api.asking import Asker, visitor_of
from dspy_demo.api.encoding import JsonResponse
from dspy_demo.api.openai_bodies import CompletionBody, Model, ModelList, OpenAIErrorBody
from dspy_demo.api.openai_chunks import Chunks, usage_json
from dspy_demo.api.openai_problems import openai_error
from dspy_demo.api.openai_text import answer_fields, reasoning_of, rendered
from dspy_demo.api.routes import json_route
from dspy_demo.api.streaming import EventStream, while_connected
from dspy_demo.api.turn_ids import turn_id_header, under_given_id
from dspy_demo.chat import ChatService
from dspy_demo.errors import NotFound
from dspy_demo.events import TurnFailed, TurnFinished, Visitor
from dspy_demo.programs.spec import ProgramSpec


class NoSuchModel(NotFound):
    code = "model_not_found"


def add_openai_routes(
    router: APIRouter, service: ChatService, asker: Asker, *, body_max_bytes: int, keep_alive_s: float
) -> None:
    """Put the ``/v1`` routes into a router."""
    body_timeout_s = service.settings.request_timeout_s
    route = json_route(openai_error, body_max_bytes=body_max_bytes, body_timeout_s=body_timeout_s)
    started_at = int(time.time())

    async def complete(body: CompletionBody, request: Request) -> Response:
        """For any client of OpenAI: set its base URL to this server's address with `/v1`.

        The last user message is the question, earlier ones are the history. Reasoning is
        `reasoning_content`, the answer is `content`; several output fields are paragraphs `name: value`.
        """
        visitor = visitor_of(request)
        spec = _program(asker, body.model, visitor)
        asked = asker.chat(spec, body.chat, body.changes, visitor)
        turn_request = under_given_id(asked, request.headers)
        service.check(turn_request)
        head = {"id": f"chatcmpl-{turn_request.turn_id}", "created": int(time.time()), "model": spec.name}
        if body.stream:
            include_usage = body.stream_options is not None and body.stream_options.include_usage
            chunks = Chunks(spec, head, include_usage=include_usage)
            return EventStream(service, turn_request, chunks, keep_alive_s=keep_alive_s)
        end = await while_connected(request.receive, service.answer(turn_request))
        if isinstance(end, TurnFinished):
            return JsonResponse(completion_json(spec, head, end), headers=turn_id_header(turn_request))
        return openai_error(end) if isinstance(end, TurnFailed) else Response(status_code=499)

    async def models(request: Request) -> Response:
        """The programs that you may ask for, each as a model."""
        data = [_model(spec, started_at) for spec in asker.programs(visitor_of(request))]
        return JsonResponse({"object": "list", "data": data})

    async def model(model_id: str, request: Request) -> Response:
        """One program, as a model."""
        return JsonResponse(_model(_program(asker, model_id, visitor_of(request)), started_at))

    def add(
        path: str, endpoint: Any, method: str, summary: str, answer: Any, errors: tuple[int, ...]
    ) -> None:
        responses = {status: {"model": OpenAIErrorBody} for status in errors}
        options: dict[str, Any] = {"summary": summary, "response_model": answer, "responses": responses}
        router.add_api_route(path, endpoint, methods=[method], route_class_override=route, **options)

    all_errors = (404, 408, 413, 415, 422, 429, 502, 503, 504)
    add("/v1/chat/completions", complete, "POST", "Chat completion", None, all_errors)
    add("/v1/models", models, "GET", "List the programs", ModelList, ())
    add("/v1/models/{model_id:path}", model, "GET", "Describe a program", Model, (404, 422))


def _program(asker: Asker, model: str, visitor: Visitor) -> ProgramSpec:
    try:
        return asker.program(model, visitor)
    except NotFound as error:
        raise NoSuchModel(error.public_message) from None


def _model(spec: ProgramSpec, created: int) -> dict[str, Any]:
    return {"id": spec.name, "object": "model", "created": created, "owned_by": "dspy-demo"}


def completion_json(spec: ProgramSpec, head: dict[str, Any], end: TurnFinished) -> dict[str, Any]:
    """A whole chat completion."""
    message = {"role": "assistant", "content": rendered(answer_fields(spec, end.outputs))}
    reasoning = reasoning_of(end.outputs)
    if reasoning:
        message["reasoning_content"] = reasoning
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
    return {**head, "object": "chat.completion", "choices": [choice], "usage": usage_json(end.usage)}
