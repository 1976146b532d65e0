"""``/v1``: the programs as if they were models of OpenAI."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, assert_never

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import Response
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from dspy_demo.api.bodies import MESSAGES_MAX, JsonResponse, Temperature, Tokens, encode, sse
from dspy_demo.api.errors import STRICT_JSON, BadBody, retry_headers
from dspy_demo.api.turns import DONE, Asked, event_stream, whole_answer
from dspy_demo.errors import InvalidInput, NotFound
from dspy_demo.events import (
    Event,
    FieldDelta,
    FinishReason,
    Message,
    Status,
    TurnFailed,
    TurnFinished,
    TurnStarted,
    Usage,
)
from dspy_demo.programs.inputs import chat_messages
from dspy_demo.programs.spec import REASONING_FIELDS, TRACE_FIELDS, ProgramSpec

CHAT, MODELS = "/v1/chat/completions", "/v1/models"
NO_ROUTE = f"The OpenAI-compatible routes here are POST {CHAT}, GET {MODELS} and GET {MODELS}/NAME."
ERRORS: dict[int | str, dict[str, Any]] = {"default": {"description": "An error, as OpenAI writes it"}}
_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"]
_EXAMPLE: dict[str, Any] = {
    "model": "chain_of_thought",
    "messages": [{"role": "user", "content": "What is 2 + 2?"}],
}
_EXAMPLES: list[Any] = [_EXAMPLE | {"stream": True}, _EXAMPLE | {"response_format": {"type": "json_object"}}]
PARAGRAPH = "\n\n"
#: More text, and which part of a message it belongs to.
Piece = tuple[Literal["content", "reasoning_content"], str]


def _listed(stop: Any) -> Any:
    return [stop] if isinstance(stop, str) else stop


class CompletionBody(BaseModel):
    """A chat completion. `model` is a program's name.

    Other parameters that OpenAI's clients send are accepted and ignored. So are system messages, since a
    DSPy program brings its own instructions, and tools that are offered, since it calls its own.
    """

    model_config = ConfigDict(extra="allow", json_schema_extra={"examples": _EXAMPLES})

    model: str = Field(description="A program's name, from `GET /v1/models`.", max_length=200)
    messages: list[dict[str, Any]] = Field(
        min_length=1,
        max_length=MESSAGES_MAX,
        description="Each with `role` and `content`, text or parts of text. The last one must be the user's.",
    )
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    temperature: Temperature | None = None
    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = Field(None, description="The newer name of `max_tokens`.")
    stop: Annotated[list[str], Field(max_length=4), BeforeValidator(_listed)] | None = Field(
        None, description="The content ends before the first of at most 4 texts."
    )
    n: int | None = Field(None, description="Only 1.")
    response_format: Any = Field(
        None, description="Text, `json_object`, or `json_schema` with properties that the program has."
    )

    @model_validator(mode="after")
    def _supported(self) -> CompletionBody:
        """Refuse what changes the answer, so that to ignore it would be wrong."""
        extra = self.model_extra or {}
        if self.n not in (None, 1):
            raise ValueError("Only one answer can be asked for: “n” must be 1.")
        if extra.get("audio") or extra.get("modalities") not in (None, ["text"]):
            raise ValueError("Only text can be answered: leave out “audio”; “modalities” must be [“text”].")
        if extra.get("logprobs"):
            raise ValueError("Log probabilities are not available.")
        for choice in (extra.get("tool_choice"), extra.get("function_call")):
            match choice:
                case None | "auto" | "none" | {"type": "allowed_tools", "allowed_tools": {"mode": "auto"}}:
                    continue
            raise ValueError("The program calls its own tools: leave out “tool_choice”, or send “auto”.")
        return self

    @property
    def chat(self) -> tuple[Message, ...]:
        """The chat, of which the last message is the question; `BadBody` where that cannot be read."""
        try:
            return chat_messages(self.messages)
        except InvalidInput as error:
            raise BadBody(error.public_message, "messages") from None

    def json_fields(self, spec: ProgramSpec) -> tuple[str, ...] | None:
        """Which fields the content has to hold as a JSON object; None where it is text, and empty for all."""
        match self.response_format:
            case None | "text" | {"type": "text" | None}:
                return None
            case {"type": "json_object"}:
                return spec.outputs
            case {"type": "json_schema", "json_schema": {"schema": {"properties": {**properties}}}}:
                if properties and set(properties) <= set(spec.outputs):
                    return tuple(map(str, properties))
        fields = ", ".join(f"“{name}”" for name in spec.outputs) or "not known before it has run"
        raise BadBody(
            "“response_format” must be text, json_object, or a json_schema whose properties are fields of "
            f"the program “{spec.title}” ({fields}).",
            "response_format",
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
    spec = asked.program(body.model)
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
    return JsonResponse(_model(asked.program(model_id)))


@router.api_route("/v1/{path:path}", methods=_METHODS, include_in_schema=False)
async def elsewhere(request: Request) -> Response:
    """Every other address or method in OpenAI's form; in the app the page would answer it."""
    path = request.scope["path"]
    if path == CHAT or f"{path}/".startswith(f"{MODELS}/"):
        raise HTTPException(405, headers={"Allow": "POST" if path == CHAT else "GET"})
    raise NotFound(NO_ROUTE)


def _model(spec: ProgramSpec) -> dict[str, Any]:
    return {"id": spec.name, "object": "model", "created": STARTED_AT, "owned_by": "dspy-demo"}


class Reply:
    """Turns the events of one turn into pieces of a message.

    The answer's deltas are content at once; all else that streams, intermediate steps and tools too, is
    reasoning. A delta cannot be taken back: where the final outputs are other than what was streamed, they
    follow as a last paragraph, so that the content ends with the answer. JSON is sent whole at the end.

    Args:
        fields: Which fields the content holds as a JSON object; empty for all, None where it is text.
        stop: The content ends before the first of these.

    Attributes:
        finish_reason: Why the reply ended; None while it has not.
    """

    def __init__(
        self, spec: ProgramSpec, *, fields: tuple[str, ...] | None = None, stop: Sequence[str] = ()
    ) -> None:
        self.finish_reason: FinishReason | None = None
        self._spec, self._fields = spec, fields
        self._stop = [text for text in stop if text]
        self._held = ""  # the end of the content, which may begin a stop text
        self._streamed: dict[str, str] = {}
        self._answering = self._reasoning = ("", "")
        self._has_content = False

    def delta(self, event: FieldDelta) -> Iterator[Piece]:
        place = (event.step, event.field)
        if event.channel != "answer":
            lead = PARAGRAPH if self._reasoning not in {place, ("", "")} else ""
            self._reasoning = place
            yield "reasoning_content", lead + event.text
        elif self._fields is None:
            yield from self._content(self._lead(place) + event.text)
            self._streamed[event.field] = self._streamed.get(event.field, "") + event.text

    def rest(self, end: TurnFinished) -> Iterator[Piece]:
        """What of the final outputs was not streamed."""
        texts = (str(text) for name, text in end.outputs.items() if name in REASONING_FIELDS and text)
        if self._reasoning == ("", "") and (reasoning := next(texts, "")):
            yield "reasoning_content", reasoning
        if text := self._unstreamed(end.outputs):
            yield from self._content((PARAGRAPH if self._has_content else "") + text)
        yield from self.held()
        self.finish_reason = self.finish_reason or end.finish_reason

    def held(self) -> Iterator[Piece]:
        """What was held back as the possible beginning of a stop text, when nothing follows any more."""
        if self._held:
            yield "content", self._held
        self._held = ""

    def whole(self, end: TurnFinished) -> dict[str, str]:
        """The parts of a message that is sent at once."""
        parts = {"content": ""}
        for part, text in self.rest(end):
            parts[part] = parts.get(part, "") + text
        return parts

    def _lead(self, place: tuple[str, str]) -> str:
        """What comes before the first text of a field."""
        if place == self._answering:
            return ""
        if place[0] != self._answering[0]:  # the answer of an earlier step was no final one
            self._streamed.clear()
        self._answering = place
        several = len(self._spec.outputs) > 1 or bool(self._streamed)
        return (PARAGRAPH if self._has_content else "") + (f"{place[1]}: " if several else "")

    def _content(self, text: str) -> Iterator[Piece]:
        """More content, up to a stop text."""
        self._has_content = True
        if self.finish_reason:
            return
        text = self._held + text
        ends = [place for stop in self._stop if (place := text.find(stop)) >= 0]
        kept = max((len(stop) - 1 for stop in self._stop), default=0)
        cut = min(ends, default=max(0, len(text) - kept))
        self._held = "" if ends else text[cut:]
        if ends:
            self.finish_reason = "stop"
        if text[:cut]:
            yield "content", text[:cut]

    def _unstreamed(self, outputs: Mapping[str, Any]) -> str:
        """What of the final answer is not in the stream; all of it where the stream says otherwise."""
        others = REASONING_FIELDS | TRACE_FIELDS
        fields = {name: outputs[name] for name in self._spec.outputs if name in outputs}
        fields = fields or {name: value for name, value in outputs.items() if name not in others}
        if self._fields is not None:
            wanted = self._fields or tuple(fields)
            return encode({name: fields[name] for name in wanted if name in fields}).decode()
        shown = fields
        if all(is_the_same(text, fields.get(name)) for name, text in self._streamed.items()):
            shown = {name: value for name, value in fields.items() if name not in self._streamed}
        texts = {name: value_text(value) for name, value in shown.items()}
        named = len(fields) > 1
        return PARAGRAPH.join(f"{name}: {text}" if named else text for name, text in texts.items())


def value_text(value: Any) -> str:
    """Text as it is, anything else as JSON."""
    return value if isinstance(value, str) else encode(value).decode()


def is_the_same(streamed: str, value: Any) -> bool:
    """Whether a field's text is its final value, which a model may write as ``[1, 2]`` or ``True``."""
    texts = (streamed, str(value), value_text(value))
    written, *finals = (text.strip() if isinstance(value, str) else "".join(text.split()) for text in texts)
    return written in finals


class Chunks:
    """The chunks of a streamed chat completion; see `turns.Encoder`.

    Args:
        head: ``id``, ``created`` and ``model`` of every chunk.
        include_usage: Whether a last chunk tells the tokens. There is none where a stop text ended the turn.
    """

    def __init__(self, reply: Reply, head: dict[str, Any], *, include_usage: bool) -> None:
        self.ended = False
        self._reply = reply
        self._head = {**head, "object": "chat.completion.chunk"}
        self._include_usage = include_usage

    def encode(self, event: Event) -> bytes:
        match event:
            case TurnStarted():
                return self._chunk({"role": "assistant", "content": ""})
            case Status():
                return b""
            case FieldDelta():
                chunks = self._pieces(self._reply.delta(event))
                self.ended = self._reply.finish_reason is not None
                return chunks + self._last() if self.ended else chunks
            case TurnFinished():
                self.ended = True
                return self._pieces(self._reply.rest(event)) + self._last(event.usage)
            case TurnFailed():
                self.ended = True
                return self._pieces(self._reply.held()) + sse(error_json(event)) + DONE
            case _:
                assert_never(event)

    def _pieces(self, pieces: Iterator[Piece]) -> bytes:
        return b"".join(self._chunk({part: text}) for part, text in pieces)

    def _last(self, usage: Usage | None = None) -> bytes:
        chunks = self._chunk({}, self._reply.finish_reason)
        if usage and self._include_usage:
            chunks += sse({**self._head, "choices": [], "usage": usage_json(usage)})
        return chunks + DONE

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
