"""What our own routes take and give, as pydantic models; the OpenAPI page shows these sentences."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from dspy_demo.api.errors import SENTENCE
from dspy_demo.events import FinishReason

_FORMS = ("text", "messages", "inputs")

Temperature = Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)]
#: More than any model writes. Clients ask for as much as they can, so a larger number means “no bound”.
TOKENS_MAX = 200_000
Tokens = Annotated[int, Field(ge=1), AfterValidator(lambda tokens: min(tokens, TOKENS_MAX))]
#: More than any chat has; a body is then refused before each of its messages is looked at.
MESSAGES_MAX = 2_000


def sentence(text: str) -> PydanticCustomError:
    """A validation error that is shown as it is."""
    return PydanticCustomError(SENTENCE, "{text}", {"text": text})


class ChatMessage(BaseModel):
    """One message of a chat."""

    model_config = ConfigDict(extra="forbid")

    role: Literal["user", "assistant"] = Field(description="Who wrote it.")
    content: str = Field(description="Its text.", examples=["What is 2 + 2?"])


_CHAT = [
    {"role": "user", "content": "What is 2 + 2?"},
    {"role": "assistant", "content": "4"},
    {"role": "user", "content": "And times 3?"},
]
_DOCUMENTED: dict[str, Any] = {
    "oneOf": [{"required": [form]} for form in _FORMS],
    "examples": [
        {"text": "What is 2 + 2?"},
        {"messages": _CHAT},
        {"inputs": {"question": "What is 15% of 240?"}, "program": "predict", "temperature": 0.2},
    ],
}


class PredictBody(BaseModel):
    """One question, in exactly one of three forms: `text`, `messages` or `inputs`.

    The model, its address and its key are the owner's choice and cannot be sent.
    """

    model_config = ConfigDict(extra="forbid", json_schema_extra=_DOCUMENTED)

    text: str | None = Field(None, description="The question; it goes to the program's chat field.")
    messages: list[ChatMessage] | None = Field(
        None,
        min_length=1,
        max_length=MESSAGES_MAX,
        description="A chat, oldest first. The last message is the question and must be the user's.",
    )
    inputs: dict[str, Any] | None = Field(None, description="The program's input fields by name.")
    history: list[ChatMessage] | None = Field(
        None,
        max_length=MESSAGES_MAX,
        description="Earlier messages, oldest first, beside `text` or `inputs`.",
    )
    program: str | None = Field(
        None, max_length=200, description="The program's name, from `GET /v1/models`. Default: the first one."
    )
    temperature: Temperature | None = Field(None, description="Sampling temperature.")
    max_tokens: Tokens | None = Field(None, description="Upper bound of output tokens per model call.")
    cache: bool | None = Field(None, description="Whether the cache may answer a repeated request.")
    session_id: str | None = Field(
        None,
        max_length=128,
        pattern=r"^[A-Za-z0-9_.-]*$",
        description="Your name for this chat: its turns are traced under it. Not a secret.",
    )

    @model_validator(mode="after")
    def _one_form(self) -> PredictBody:
        given = [form for form in _FORMS if getattr(self, form) is not None]
        if len(given) != 1:
            raise sentence("Send exactly one of “text”, “messages” and “inputs”.")
        if self.messages is not None:
            if self.history is not None:
                raise sentence("Send earlier messages inside “messages”, not as “history”.")
            if self.messages[-1].role != "user":
                raise sentence("The last of the “messages” must be the user's.")
        return self


class UsageBody(BaseModel):
    """Tokens and money, over all model calls of the turn."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    cost_usd: float | None = Field(description="Null where the price is unknown.")
    cached: bool = Field(description="True where every call was answered from the cache.")


class Prediction(BaseModel):
    """The whole answer."""

    status: Literal["success"]
    data: dict[str, Any] = Field(
        description="Every output field of the program.",
        examples=[{"reasoning": "2 plus 2 is 4.", "answer": "4"}],
    )
    usage: UsageBody
    elapsed_s: float = Field(description="Seconds from the start of the turn.")
    trace_id: str | None = Field(description="The MLflow trace of this turn, where there is one.")
    finish_reason: FinishReason = Field(
        description="`stop`, or why the reply was cut: `length` is the token limit, `content_filter` the "
        "model's filter. Fields may then be missing in `data`."
    )


class ErrorBody(BaseModel):
    """What went wrong."""

    status: Literal["error"]
    code: str = Field(examples=["upstream_timeout"], description="Stable, for programs.")
    message: str = Field(description="One sentence, for people.")
    retryable: bool = Field(description="Whether the same request may succeed later.")
    error_id: str = Field(
        description="Finds the details in the owner's log. Of a failed turn it is the id of the turn.",
        examples=["3f9a1c07"],
    )
