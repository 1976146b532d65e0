"""``/v1``: the programs as if they were models of OpenAI."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import Response

from dspy_demo.api.asking import Asked, Asking
from dspy_demo.api.encoding import JsonResponse, sse
from dspy_demo.api.errors import STRICT_JSON, retry_headers
from dspy_demo.api.openai_bodies import CompletionBody
from dspy_demo.api.openai_reply import Piece, Reply
from dspy_demo.api.stream import DONE, Encoder, event_stream, whole_answer
from dspy_demo.errors import NotFound
from dspy_demo.events import FieldDelta, TurnFailed, TurnFinished, TurnStarted, Usage
from dspy_demo.programs.spec import ProgramSpec

CHAT, MODELS = "/v1/chat/completions", "/v1/models"
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"description": "An error, as OpenAI writes it"}
    for status in (400, 404, 413, 415, 422, 429, 502, 503, 504)
}
_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"]


class NoSuchModel(NotFound):
    code = "model_not_found"


class NoSuchRoute(NotFound):
    default_message = (
        "This address is not one of the OpenAI-compatible routes here. "
        f"They are POST {CHAT}, GET {MODELS} and GET {MODELS}/NAME."
    )


router = APIRouter()
STARTED_AT = int(time.time())


@router.post(
    CHAT, summary="Chat completion", response_model=None, responses=ERRORS, dependencies=[STRICT_JSON]
)
async def complete(body: CompletionBody, request: Request, asked: Asked) -> Response:
    """For any client of OpenAI: set its base URL to this server's address with `/v1`.

    The last user message is the question, earlier ones are the history. Reasoning is
    `reasoning_content`, the answer is `content`; several output fields are paragraphs `name: value`, or
    JSON where `response_format` asks for it. Tools that are offered are left aside.
    """
    spec = _program(body.model, asked)
    reply = Reply(spec, fields=body.json_fields(spec), stop=body.stop or ())
    tokens = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
    turn = asked.chat(spec, body.chat, temperature=body.temperature, max_tokens=tokens)
    head = {"id": f"chatcmpl-{turn.turn_id}", "created": int(time.time()), "model": spec.name}
    if body.stream:
        include_usage = (body.stream_options or {}).get("include_usage") is True
        return event_stream(asked, turn, Chunks(reply, head, include_usage=include_usage))

    def whole(end: TurnFinished) -> Response:
        message = {"role": "assistant", **reply.whole(end)}
        choice = {"index": 0, "message": message, "finish_reason": reply.finish_reason, "logprobs": None}
        usage = usage_json(end.usage)
        return JsonResponse({**head, "object": "chat.completion", "choices": [choice], "usage": usage})

    return await whole_answer(asked, request, turn, finished=whole, failed=openai_error)


@router.get(MODELS, summary="List the programs", response_model=None)
async def models(asked: Asked) -> Response:
    """The programs that you may ask for, each as a model."""
    return JsonResponse({"object": "list", "data": [_model(spec) for spec in asked.programs()]})


@router.get(MODELS + "/{model_id:path}", summary="Describe a program", response_model=None, responses=ERRORS)
async def model(model_id: str, asked: Asked) -> Response:
    """One program, as a model."""
    return JsonResponse(_model(_program(model_id, asked)))


@router.api_route("/v1", methods=_METHODS, include_in_schema=False)
@router.api_route("/v1/{path:path}", methods=_METHODS, include_in_schema=False)
async def elsewhere(request: Request) -> Response:
    """Every other address, and every other method of these, in OpenAI's form."""
    path = request.scope["path"]
    if path == CHAT:
        raise HTTPException(405, headers={"Allow": "POST"})
    if f"{path}/".startswith(f"{MODELS}/"):
        raise HTTPException(405, headers={"Allow": "GET"})
    raise NoSuchRoute()


def _program(name: str, asked: Asking) -> ProgramSpec:
    try:
        return asked.program(name)
    except NotFound as error:
        raise NoSuchModel(error.public_message) from None


def _model(spec: ProgramSpec) -> dict[str, Any]:
    return {"id": spec.name, "object": "model", "created": STARTED_AT, "owned_by": "dspy-demo"}


class Chunks(Encoder):
    """The chunks of a streamed chat completion.

    Args:
        head: ``id``, ``created`` and ``model`` of every chunk.
        include_usage: Whether a last chunk tells the tokens. There is none where a stop text ended the turn
            before the model said how many there were.
    """

    def __init__(self, reply: Reply, head: dict[str, Any], *, include_usage: bool) -> None:
        self._reply = reply
        self._head = {**head, "object": "chat.completion.chunk"}
        self._include_usage = include_usage

    def on_start(self, event: TurnStarted) -> bytes:
        return self._chunk({"role": "assistant", "content": ""})

    def on_delta(self, event: FieldDelta) -> bytes:
        chunks = self._pieces(self._reply.delta(event))
        if self._reply.finish_reason is None:
            return chunks
        self.ended = True
        return chunks + self._chunk({}, self._reply.finish_reason) + DONE

    def on_end(self, event: TurnFinished | TurnFailed) -> bytes:
        if isinstance(event, TurnFailed):
            return self._pieces(self._reply.held()) + sse(error_json(event)) + DONE
        chunks = self._pieces(self._reply.rest(event)) + self._chunk({}, self._reply.finish_reason)
        if self._include_usage:
            chunks += sse({**self._head, "choices": [], "usage": usage_json(event.usage)})
        return chunks + DONE

    def _pieces(self, pieces: Iterator[Piece]) -> bytes:
        return b"".join(self._chunk({part: text}) for part, text in pieces)

    def _chunk(self, delta: dict[str, str], finish_reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        usage = {"usage": None} if self._include_usage else {}
        return sse({**self._head, "choices": [choice], **usage})


def usage_json(usage: Usage) -> dict[str, int]:
    """Tokens, as OpenAI counts them."""
    names = ("prompt_tokens", "completion_tokens", "total_tokens")
    return {name: getattr(usage, name) for name in names}


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
