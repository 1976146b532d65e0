"""``/v1``: the programs as if they were models of OpenAI."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, assert_never

from fastapi import APIRouter, HTTPException
from fastapi.responses import Response
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from dspy_demo.api.bodies import MESSAGES_MAX, JsonResponse, Temperature, Tokens, encode, sse
from dspy_demo.api.errors import STRICT_JSON, BadBody, retry_headers
from dspy_demo.api.turns import DONE, Asked, event_stream, whole_answer
from dspy_demo.errors import NotFound
from dspy_demo.events import (
    Event,
    FieldDelta,
    FinishReason,
    Status,
    TurnFailed,
    TurnFinished,
    TurnStarted,
    Usage,
)
from dspy_demo.programs.inputs import chat_messages
from dspy_demo.programs.spec import REASONING_FIELDS, TRACE_FIELDS, ProgramSpec

CHAT, MODELS = "/v1/chat/completions", "/v1/models"
ERRORS: dict[int | str, dict[str, Any]] = {"default": {"description": "An error, as OpenAI writes it"}}
_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"]
_EXAMPLE: Any = {
    "model": "predict",
    "messages": [{"role": "user", "content": "What is 2 + 2?"}],
    "stream": True,
}
PARAGRAPH = "\n\n"
#: More text, and which part of a message it belongs to.
Piece = tuple[Literal["content", "reasoning_content"], str]
Stops = Annotated[
    list[str], Field(max_length=4), BeforeValidator(lambda stop: [stop] if isinstance(stop, str) else stop)
]


class UnsupportedFormat(BadBody):
    http_status = 400


class NoRoute(NotFound):
    code = "unknown_url"
    default_message = f"The routes for OpenAI's clients are POST {CHAT}, GET {MODELS} and {MODELS}/NAME."


class CompletionBody(BaseModel):
    """Other parameters that OpenAI's clients send are accepted and ignored. So are system messages, since a
    DSPy program brings its own instructions, and tools that are offered, since it calls its own.
    """

    model_config = ConfigDict(extra="allow", json_schema_extra={"examples": [_EXAMPLE]})

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
    stop: Stops | None = Field(None, description="The content ends before the first of at most 4 texts.")
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
        if any(extra.get(name) not in (None, "auto", "none") for name in ("tool_choice", "function_call")):
            raise ValueError("The program calls its own tools: leave out “tool_choice”, or send “auto”.")
        return self

    def json_fields(self, spec: ProgramSpec) -> tuple[str, ...] | None:
        """Which fields the content holds as a JSON object; None where it is text, and empty for all."""
        match self.response_format:
            case None | "text" | {"type": "text" | None}:
                return None
            case {"type": "json_object"}:
                return spec.outputs
            case {"type": "json_schema", "json_schema": {"schema": {"properties": {**properties}}}}:
                if properties and set(properties) <= set(spec.outputs):
                    return tuple(map(str, properties))
        fields = ", ".join(spec.outputs) or "not known before it has run"
        sentence = f"“response_format” must be text, json_object, or a json_schema of the outputs: {fields}."
        raise UnsupportedFormat(sentence, "response_format")


router = APIRouter()
STARTED_AT = int(time.time())


@router.post(CHAT, response_model=None, responses=ERRORS, dependencies=[STRICT_JSON])
async def complete(body: CompletionBody, asked: Asked) -> Response:
    """A chat completion, for any client of OpenAI: set its base URL to this server's address with `/v1`.

    The last user message is the question, earlier ones are the history. Reasoning is
    `reasoning_content`, the answer is `content`; several output fields are paragraphs `name: value`, or
    JSON where `response_format` asks for it. Tools that are offered are left aside.
    """
    spec = asked.program(body.model)
    reply = Reply(spec, body)
    tokens = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
    turn = asked.chat(spec, chat_messages(body.messages), temperature=body.temperature, max_tokens=tokens)
    reply.head["id"] = f"chatcmpl-{turn.turn_id}"
    if body.stream:
        return event_stream(asked, turn, reply)
    return await whole_answer(asked, turn, finished=reply.whole, failed=openai_error)


@router.get(MODELS, response_model=None)
async def models(asked: Asked) -> Response:
    """The programs that you may ask for, each as a model."""
    return JsonResponse({"object": "list", "data": [_model(spec) for spec in asked.programs()]})


@router.get(MODELS + "/{model_id:path}", response_model=None, responses=ERRORS)
async def model(model_id: str, asked: Asked) -> Response:
    """One program, as a model."""
    return JsonResponse(_model(asked.program(model_id)))


@router.api_route("/v1/{path:path}", methods=_METHODS, include_in_schema=False)
async def elsewhere(path: str) -> Response:
    """Every other address or method; in the app the page would answer it."""
    if path.startswith(("chat/completions", "models")):
        raise HTTPException(405, headers={"Allow": "POST" if path.startswith("chat") else "GET"})
    raise NoRoute()


def _model(spec: ProgramSpec) -> dict[str, Any]:
    return {"id": spec.name, "object": "model", "created": STARTED_AT, "owned_by": "dspy-demo"}


class Reply:
    """The message of one turn, whole or in chunks; see `turns.Encoder`.

    The answer's deltas are content at once; all else that streams, intermediate steps and tools too, is
    reasoning. A delta cannot be taken back: where the final outputs are other than what was streamed, they
    follow as a last paragraph, so that the content ends with the answer. JSON is sent whole at the end.
    """

    def __init__(self, spec: ProgramSpec, body: CompletionBody) -> None:
        self.ended = False
        self.head: dict[str, Any] = {"created": int(time.time()), "model": spec.name}
        self._spec, self._fields = spec, body.json_fields(spec)
        self._stop = [text for text in body.stop or () if text]
        self._usage = {"usage": None} if (body.stream_options or {}).get("include_usage") is True else {}
        self._finish_reason: FinishReason | None = None
        self._held = ""  # the end of the content, which may begin a stop text
        self._streamed: dict[str, str] = {}
        self._answering = self._reasoning = ("", "")
        self._has_content = False

    def whole(self, end: TurnFinished) -> Response:
        message = {"role": "assistant", "content": ""}
        for part, text in self._rest(end):
            message[part] = message.get(part, "") + text
        choice = {"index": 0, "message": message, "finish_reason": self._finish_reason, "logprobs": None}
        about = {"object": "chat.completion", "choices": [choice], "usage": usage_json(end.usage)}
        return JsonResponse(self.head | about)

    def encode(self, event: Event) -> bytes:
        match event:
            case TurnStarted():
                return self._chunk({"role": "assistant", "content": ""})
            case Status():
                return b""
            case FieldDelta():
                chunks = self._chunks(self._delta(event))
                self.ended = self._finish_reason is not None
                return chunks + self._chunk({}) + DONE if self.ended else chunks
            case TurnFinished():
                self.ended = True
                chunks = self._chunks(self._rest(event)) + self._chunk({})
                if self._usage:  # there is none where a stop text ended the turn
                    chunks += self._sent(choices=[], usage=usage_json(event.usage))
                return chunks + DONE
            case TurnFailed():
                self.ended = True
                return self._chunks(self._let_go()) + sse(error_json(event)) + DONE
            case _:
                assert_never(event)

    def _chunks(self, pieces: Iterator[Piece]) -> bytes:
        return b"".join([self._chunk({part: text}) for part, text in pieces])

    def _chunk(self, delta: dict[str, str]) -> bytes:
        """With an empty delta: the last one, which says why the reply ended."""
        choice = {"index": 0, "delta": delta, "finish_reason": None if delta else self._finish_reason}
        return self._sent(choices=[choice], **self._usage)

    def _sent(self, **more: Any) -> bytes:
        return sse({**self.head, "object": "chat.completion.chunk", **more})

    def _delta(self, event: FieldDelta) -> Iterator[Piece]:
        place = (event.step, event.field)
        if event.channel != "answer":
            lead = PARAGRAPH if self._reasoning not in {place, ("", "")} else ""
            self._reasoning = place
            yield "reasoning_content", lead + event.text
        elif self._fields is None:
            text, begins = event.text, place != self._answering
            if event.step != self._answering[0]:  # the answer of an earlier step was no final one
                self._streamed.clear()
            if begins and (len(self._spec.outputs) > 1 or self._streamed):
                text = f"{event.field}: {text}"
            self._answering = place
            yield from self._content(text, begins)
            self._streamed[event.field] = self._streamed.get(event.field, "") + event.text

    def _rest(self, end: TurnFinished) -> Iterator[Piece]:
        """What of the final outputs was not streamed."""
        texts = (str(text) for name, text in end.outputs.items() if name in REASONING_FIELDS and text)
        if self._reasoning == ("", "") and (reasoning := next(texts, "")):
            yield "reasoning_content", reasoning
        if text := self._unstreamed(end.outputs):
            yield from self._content(text, True)
        yield from self._let_go()
        self._finish_reason = self._finish_reason or end.finish_reason

    def _let_go(self) -> Iterator[Piece]:
        """What was held back as the possible beginning of a stop text, when nothing follows any more."""
        if self._held:
            yield "content", self._held

    def _content(self, text: str, begins_paragraph: bool) -> Iterator[Piece]:
        """More content, up to a stop text."""
        if self._finish_reason:
            return
        text = self._held + (PARAGRAPH if begins_paragraph and self._has_content else "") + text
        self._has_content = True
        ends = [place for stop in self._stop if (place := text.find(stop)) >= 0]
        kept = max((len(stop) - 1 for stop in self._stop), default=0)
        cut = min(ends, default=max(0, len(text) - kept))
        self._held = "" if ends else text[cut:]
        if ends:
            self._finish_reason = "stop"
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
    return value if isinstance(value, str) else encode(value).decode()


def is_the_same(streamed: str, value: Any) -> bool:
    """Whether a field's text is its final value, which a model may write as ``[1, 2]`` or ``True``."""
    texts = (streamed, str(value), value_text(value))
    written, *finals = (text.strip() if isinstance(value, str) else "".join(text.split()) for text in texts)
    return written in finals


def usage_json(usage: Usage) -> dict[str, int]:
    names = ("prompt_tokens", "completion_tokens", "total_tokens")
    return {name: getattr(usage, name) for name in names}


def openai_error(failed: TurnFailed, field: str = "") -> Response:
    """An error as an answer to ``/v1``, from which OpenAI's clients raise their own exceptions."""
    # The SDK repeats every 429 and 5xx unless told that it is pointless.
    headers = {"x-should-retry": "true" if failed.retryable else "false"} | retry_headers(failed)
    return JsonResponse(error_json(failed, field), failed.http_status, headers)


def error_json(failed: TurnFailed, field: str = "") -> dict[str, Any]:
    about = {
        "message": failed.public_message,
        "type": "invalid_request_error" if failed.http_status < 500 else "api_error",
        "code": "model_not_found" if failed.code == "not_found" else failed.code,
        "param": field or None,
        "error_id": failed.error_id,
    }
    return {"error": about}
