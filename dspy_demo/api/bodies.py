"""What our own routes take and give, as pydantic models, whose sentences /docs shows; and JSON out."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import orjson
from fastapi.responses import Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from dspy_demo.events import FinishReason

_FORMS = ("text", "messages", "inputs")
Temperature = Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)]
#: Clients ask for as much as they can, and mean “no bound”: 200,000 are more than any model writes.
Tokens = Annotated[int, Field(ge=1), AfterValidator(lambda tokens: min(tokens, 200_000))]
#: More than any chat has; a body is then refused before each of its messages is looked at.
MESSAGES_MAX = 2_000


class ChatMessage(BaseModel, extra="forbid"):
    role: Literal["user", "assistant"]
    content: str


Chat = Annotated[list[ChatMessage], Field(max_length=MESSAGES_MAX)]


class PredictBody(BaseModel):
    """One question, as `text`, `messages` or `inputs`. Model, address and key are the owner's choice."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "oneOf": [{"required": [form]} for form in _FORMS],
            "examples": [
                {"text": "What is 2 + 2?"},
                {"messages": [{"role": "user", "content": "What is 2 + 2?"}]},
                {"inputs": {"question": "What is 15% of 240?"}, "program": "predict", "temperature": 0.2},
            ],
        },
    )

    text: str | None = Field(None, description="The question; it goes to the program's chat field.")
    messages: Annotated[Chat, Field(min_length=1)] | None = Field(
        None, description="A chat, oldest first. The last message is the question and must be the user's."
    )
    inputs: dict[str, Any] | None = Field(None, description="The program's input fields by name.")
    history: Chat | None = Field(
        None, description="Earlier messages, oldest first, beside `text` or `inputs`."
    )
    program: str | None = Field(
        None, max_length=200, description="From `GET /v1/models`; else the first one."
    )
    temperature: Temperature | None = Field(None, description="Sampling temperature.")
    max_tokens: Tokens | None = Field(None, description="Upper bound of output tokens per model call.")
    cache: bool | None = Field(None, description="Whether the cache may answer a repeated request.")
    session_id: Annotated[str, Field(max_length=128, pattern=r"^[A-Za-z0-9_.-]*$")] | None = Field(
        None, description="Your name for this chat: its turns are traced under it. Not a secret."
    )

    @model_validator(mode="after")
    def _one_form(self) -> PredictBody:
        if sum(getattr(self, form) is not None for form in _FORMS) != 1:
            raise ValueError("Send exactly one of “text”, “messages” and “inputs”.")
        if self.messages is not None and self.history is not None:
            raise ValueError("Send earlier messages inside “messages”, not as “history”.")
        if self.messages is not None and self.messages[-1].role != "user":
            raise ValueError("The last of the “messages” must be the user's.")
        return self


class Prediction(BaseModel):
    status: Literal["success"]
    data: dict[str, Any] = Field(description="Every output field of the program.")
    usage: dict[str, float | bool | None] = Field(description="Tokens and their price over all model calls.")
    elapsed_s: float
    trace_id: str | None
    finish_reason: FinishReason = Field(description="`stop`, or why `data` was cut and may miss fields.")


class ErrorBody(BaseModel):
    status: Literal["error"]
    code: str = Field(description="Stable, for programs.")
    message: str = Field(description="One sentence, for people.")
    retryable: bool = Field(description="Whether the same request may succeed later.")
    error_id: str = Field(description="Finds the details in the owner's log: the id of the turn.")


ERRORS: dict[int | str, dict[str, Any]] = {"default": {"model": ErrorBody}}


def encode(value: Any) -> bytes:
    """`value` as JSON, with null for NaN and the infinities."""
    try:
        return orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS)
    except TypeError:  # half a surrogate pair, an integer beyond 64 bits: models do write those
        written = json.dumps(value, default=str)
        return json.dumps(json.loads(written, parse_constant=lambda _: None)).encode()


def sse(value: Any) -> bytes:
    """`value` as one server-sent event."""
    return b"data: " + encode(value) + b"\n\n"


class JsonResponse(Response):
    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return encode(content)
