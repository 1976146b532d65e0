"""``/v1``: the programs as if they were models of OpenAI."""

from __future__ import annotations

import time
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from dspy_demo.api.asking import Asker
from dspy_demo.api.encoding import JsonResponse
from dspy_demo.api.openai_bodies import CompletionBody, Model, ModelList, OpenAIErrorBody
from dspy_demo.api.openai_chunks import Chunks, usage_json
from dspy_demo.api.openai_problems import openai_error
from dspy_demo.api.openai_text import answer_fields, reasoning_of, rendered
from dspy_demo.api.routes import json_route
from dspy_demo.api.streaming import EventStream, while_connected
from dspy_demo.chat import ChatService
from dspy_demo.errors import NotFound
from dspy_demo.events import TurnFailed, TurnFinished
from dspy_demo.programs.registry import ProgramRegistry
from dspy_demo.programs.spec import ProgramSpec


class NoSuchModel(NotFound):
    code = "model_not_found"


def add_openai_routes(
    router: APIRouter, service: ChatService, asker: Asker, *, body_max_bytes: int, keep_alive_s: float
) -> None:
    """Put the ``/v1`` routes into a router."""
    route = json_route(openai_error, body_max_bytes=body_max_bytes)
    started_at = int(time.time())
    programs = service.programs

    async def complete(body: CompletionBody, request: Request) -> Response:
        """For any client of OpenAI: set its base URL to this server's address with `/v1`.

        The last user message is the question, earlier ones are the history. Reasoning is
        `reasoning_content`, the answer is `content`; several output fields are paragraphs `name: value`.
        """
        spec = _program(programs, body.model)
        turn_request = asker.chat(spec, body.chat, body.changes)
        service.check(turn_request)
        head = {"id": f"chatcmpl-{turn_request.turn_id}", "created": int(time.time()), "model": spec.name}
        if body.stream:
            include_usage = body.stream_options is not None and body.stream_options.include_usage
            chunks = Chunks(spec, head, include_usage=include_usage)
            return EventStream(service, turn_request, chunks, keep_alive_s=keep_alive_s)
        end = await while_connected(request.receive, service.answer(turn_request))
        if isinstance(end, TurnFinished):
            return JsonResponse(completion_json(spec, head, end))
        return openai_error(end) if isinstance(end, TurnFailed) else Response(status_code=499)

    async def models() -> Response:
        """The programs, each as a model."""
        data = [_model(spec, started_at) for spec in programs.specs()]
        return JsonResponse({"object": "list", "data": data})

    async def model(model_id: str) -> Response:
        """One program, as a model."""
        return JsonResponse(_model(_program(programs, model_id), started_at))

    def add(
        path: str, endpoint: Any, method: str, summary: str, answer: Any, errors: tuple[int, ...]
    ) -> None:
        responses = {status: {"model": OpenAIErrorBody} for status in errors}
        options: dict[str, Any] = {"summary": summary, "response_model": answer, "responses": responses}
        router.add_api_route(path, endpoint, methods=[method], route_class_override=route, **options)

    all_errors = (404, 413, 415, 422, 429, 502, 503, 504)
    add("/v1/chat/completions", complete, "POST", "Chat completion", None, all_errors)
    add("/v1/models", models, "GET", "List the programs", ModelList, ())
    add("/v1/models/{model_id:path}", model, "GET", "Describe a program", Model, (404, 422))


def _program(programs: ProgramRegistry, model: str) -> ProgramSpec:
    try:
        return programs.get(model)
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
