"""``/v1``: the programs as if they were models of OpenAI."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Annotated, Any, assert_never

from fastapi import APIRouter
from fastapi.responses import Response
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from dspy_demo.api.bodies import MESSAGES_MAX, JsonResponse, Temperature, Tokens, encode, sse
from dspy_demo.api.errors import JsonRoute, retry_headers
from dspy_demo.api.turns import DONE, Asked, event_stream, whole_answer
from dspy_demo.errors import InvalidInput
from dspy_demo.events import Event, FieldDelta, Status, TurnFailed, TurnFinished, TurnStarted, Usage
from dspy_demo.programs.inputs import chat_messages
from dspy_demo.programs.spec import REASONING_FIELDS, TRACE_FIELDS, ProgramSpec

CHAT, MODELS = "/v1/chat/completions", "/v1/models"
ERRORS: dict[int | str, dict[str, Any]] = {"default": {"description": "An error, as OpenAI writes it"}}
_EXAMPLE: Any = {"model": "predict", "messages": [{"role": "user", "content": "What is 2 + 2?"}]}
#: What would change the answer, so that to ignore it would be wrong, and the values that change nothing.
_CANNOT_DO: Mapping[str, tuple[Any, ...]] = {
    "n": (None, 1),
    "audio": (None,),
    "modalities": (None, ["text"]),
    "logprobs": (None, False),
    "tool_choice": (None, "auto", "none"),  # a program calls its own tools
    "function_call": (None, "auto", "none"),
}
PARAGRAPH = "\n\n"
STARTED_AT = int(time.time())
Stops = Annotated[
    list[str], Field(max_length=4), BeforeValidator(lambda stop: [stop] if isinstance(stop, str) else stop)
]


class CompletionBody(BaseModel):
    """Other parameters of OpenAI are ignored, and system messages and tools: a program has its own."""

    model_config = ConfigDict(extra="allow", json_schema_extra={"examples": [_EXAMPLE]})

    model: str = Field(description="A program's name, from `GET /v1/models`.", max_length=200)
    messages: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=MESSAGES_MAX)] = Field(
        description="Each with `role` and `content`, text or parts of text. The last one must be the user's."
    )
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    temperature: Temperature | None = None
    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = Field(None, description="The newer name of `max_tokens`.")
    stop: Stops | None = Field(None, description="The content ends before the first of these, at most 4.")
    response_format: Any = Field(None, description="Text, `json_object`, or `json_schema` of its outputs.")

    @model_validator(mode="after")
    def _supported(self) -> CompletionBody:
        for name, value in (self.model_extra or {}).items():
            if name in _CANNOT_DO and value not in _CANNOT_DO[name]:
                raise ValueError(f"The programs cannot do what “{name}” asks for. Leave it out.")
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
        raise InvalidInput(f"“response_format” must be text, or JSON of the program's outputs: {fields}.")


router = APIRouter(route_class=JsonRoute)


@router.post(CHAT, response_model=None, responses=ERRORS)
async def complete(body: CompletionBody, asked: Asked) -> Response:
    """A chat completion, for any client of OpenAI: set its base URL to this server's address with `/v1`.

    Reasoning is `reasoning_content`, the answer is `content`; several output fields are paragraphs
    `name: value`, or JSON where `response_format` asks for it.
    """
    spec = asked.program(body.model)
    reply = Reply(spec, body)
    tokens = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
    turn = asked.chat(spec, chat_messages(body.messages), temperature=body.temperature, max_tokens=tokens)
    reply.head["id"] = f"chatcmpl-{turn.turn_id}"
    if body.stream:
        return event_stream(asked, turn, reply.encode)
    return await whole_answer(asked, turn, finished=reply.whole, failed=openai_error)


@router.get(MODELS, response_model=None)
async def models(asked: Asked) -> Response:
    """The programs that you may ask for, each as a model."""
    return JsonResponse({"object": "list", "data": [_model(spec) for spec in asked.programs()]})


@router.get(MODELS + "/{model_id:path}", response_model=None, responses=ERRORS)
async def model(model_id: str, asked: Asked) -> Response:
    """One program, as a model."""
    return JsonResponse(_model(asked.program(model_id)))


def _model(spec: ProgramSpec) -> dict[str, Any]:
    return {"id": spec.name, "object": "model", "created": STARTED_AT, "owned_by": "dspy-demo"}


class Reply:
    """The message of one turn, whole or in chunks; see `turns.event_stream`.

    The answer's deltas are content at once, all else that streams is reasoning. A delta cannot be taken back:
    where the final outputs are others, they follow as a last paragraph, so that the content ends with the
    answer. JSON, and what a stop text may end, is sent whole at the end.
    """

    def __init__(self, spec: ProgramSpec, body: CompletionBody) -> None:
        self.head: dict[str, Any] = {"created": int(time.time()), "model": spec.name}
        self._spec, self._fields = spec, body.json_fields(spec)
        self._stop = [text for text in body.stop or () if text]
        self._with_usage = (body.stream_options or {}).get("include_usage") is True
        self._places: dict[str, tuple[str, str]] = {}  # step and field of the last delta of each part
        self._streamed: dict[str, str] = {}  # content by field

    def whole(self, end: TurnFinished) -> Response:
        message = {"role": "assistant", "content": ""} | self._rest(end)
        choice = {"index": 0, "message": message, "finish_reason": end.finish_reason, "logprobs": None}
        about = {"object": "chat.completion", "choices": [choice], "usage": usage_json(end.usage)}
        return JsonResponse(self.head | about)

    def encode(self, event: Event) -> bytes:
        match event:
            case TurnStarted():
                return self._chunk({"role": "assistant", "content": ""})
            case Status():
                return b""
            case FieldDelta():
                return self._delta(event)
            case TurnFinished():
                rest = [self._chunk({part: text}) for part, text in self._rest(event).items()]
                rest.append(self._chunk({}, event.finish_reason))
                if self._with_usage:
                    rest.append(self._sent(choices=[], usage=usage_json(event.usage)))
                return b"".join([*rest, DONE])
            case TurnFailed():
                return sse(error_json(event)) + DONE
            case _:
                assert_never(event)

    def _chunk(self, delta: dict[str, str], finish_reason: str | None = None) -> bytes:
        return self._sent(choices=[{"index": 0, "delta": delta, "finish_reason": finish_reason}])

    def _sent(self, **more: Any) -> bytes:
        return sse({**self.head, "object": "chat.completion.chunk", **more})

    def _delta(self, event: FieldDelta) -> bytes:
        part = "content" if event.channel == "answer" else "reasoning_content"
        place, last, text = (event.step, event.field), self._places.get(part), event.text
        if part == "content":
            if self._fields is not None or self._stop:
                return b""
            if last and last[0] != event.step:  # the answer of an earlier step was no final one
                self._streamed.clear()
            if last != place and (len(self._spec.outputs) > 1 or self._streamed):
                text = f"{event.field}: {text}"
            self._streamed[event.field] = self._streamed.get(event.field, "") + event.text
        self._places[part] = place
        return self._chunk({part: text if last in {None, place} else PARAGRAPH + text})

    def _rest(self, end: TurnFinished) -> dict[str, str]:
        """What of the final outputs was not streamed, by the part of the message."""
        rest = {}
        reasoning = [str(text) for name, text in end.outputs.items() if name in REASONING_FIELDS and text]
        if reasoning and "reasoning_content" not in self._places:
            rest["reasoning_content"] = reasoning[0]
        if text := self._unstreamed(end.outputs):
            rest["content"] = PARAGRAPH + text if self._streamed else text
        return rest

    def _unstreamed(self, outputs: Mapping[str, Any]) -> str:
        """What of the final answer is not in the stream; all of it where the stream says otherwise."""
        others = REASONING_FIELDS | TRACE_FIELDS
        fields = {name: outputs[name] for name in self._spec.outputs if name in outputs}
        fields = fields or {name: value for name, value in outputs.items() if name not in others}
        if self._fields is not None:
            wanted = self._fields or tuple(fields)
            text = encode({name: fields[name] for name in wanted if name in fields}).decode()
        else:
            shown = fields
            if all(is_the_same(text, fields.get(name)) for name, text in self._streamed.items()):
                shown = {name: value for name, value in fields.items() if name not in self._streamed}
            texts = {name: value_text(value) for name, value in shown.items()}
            named = len(fields) > 1
            text = PARAGRAPH.join(f"{name}: {text}" if named else text for name, text in texts.items())
        return text[: min((text.index(stop) for stop in self._stop if stop in text), default=len(text))]


def value_text(value: Any) -> str:
    return value if isinstance(value, str) else encode(value).decode()


def is_the_same(streamed: str, value: Any) -> bool:
    """Whether a field's text is its final value, which a model may write as ``[1, 2]`` or ``True``."""
    written, *finals = ("".join(text.split()) for text in (streamed, str(value), value_text(value)))
    return written in finals


def usage_json(usage: Usage) -> dict[str, int]:
    return {f"{name}_tokens": getattr(usage, f"{name}_tokens") for name in ("prompt", "completion", "total")}


def openai_error(failed: TurnFailed) -> Response:
    """An error as an answer to ``/v1``, from which OpenAI's clients raise their own exceptions."""
    # The SDK repeats every 429 and 5xx unless told that it is pointless.
    headers = {"x-should-retry": "true" if failed.retryable else "false"} | retry_headers(failed)
    return JsonResponse(error_json(failed), failed.http_status, headers)


def error_json(failed: TurnFailed) -> dict[str, Any]:
    about = {
        "message": failed.public_message,
        "type": "invalid_request_error" if failed.http_status < 500 else "api_error",
        "code": failed.code,
        "param": None,
        "error_id": failed.error_id,
    }
    return {"error": about}
