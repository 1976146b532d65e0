"""The OpenAI-compatible request: what we use of it, what we refuse, and all else is ignored."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from dspy_demo.api.bodies import Temperature, Tokens, sentence, without_nulls
from dspy_demo.events import Message


class TextPart(BaseModel):
    """A part of a message; only text is understood."""

    type: Literal["text"]
    text: str


def _text_of(content: Any) -> Any:
    """The content of a message as one text, however its parts were sent."""
    if not isinstance(content, list):
        return "" if content is None else content
    parts = [part for part in content if isinstance(part, dict) and part.get("type") in _TEXTS]
    texts = [part["text"] for part in parts if isinstance(part.get("text"), str)]
    if len(texts) < len(content):
        raise sentence("Only text can be sent: every part of a message must be {“type”: “text”, “text”: …}.")
    return "\n".join(texts)


_TEXTS = ("text", "input_text", "output_text")
Content = Annotated[str, BeforeValidator(_text_of, json_schema_input_type=str | list[TextPart] | None)]


class OpenAIMessage(BaseModel):
    """A message of the chat."""

    role: Literal["user", "assistant", "system", "developer", "tool", "function"]
    content: Content = Field("", examples=["What is 2 + 2?"])

    @model_validator(mode="after")
    def _is_chat(self) -> OpenAIMessage:
        if self.role in {"tool", "function"}:
            raise sentence("Messages of tools are not taken: the program calls its own tools.")
        return self


class StreamOptions(BaseModel):
    include_usage: bool = False


def _document(schema: dict[str, Any]) -> None:
    without_nulls(schema)
    question = {"role": "user", "content": "What is 2 + 2?"}
    schema["examples"] = [
        {"model": "chain_of_thought", "messages": [question]},
        {"model": "chain_of_thought", "messages": [question], "stream": True},
    ]


#: Parameters that change what comes back, so that to ignore them would be a wrong answer.
_REFUSED = {
    "tools": "Tools cannot be sent: the program calls its own tools.",
    "functions": "Functions cannot be sent: the program calls its own tools.",
    "audio": "Audio is not supported; the answer is text.",
    "logprobs": "Log probabilities are not available.",
}


class CompletionBody(BaseModel):
    """A chat completion. `model` is a program's name.

    Other parameters that OpenAI's clients send are accepted and ignored. So are system messages: a DSPy
    program brings its own instructions.
    """

    model_config = ConfigDict(extra="allow", json_schema_extra=_document)

    model: str = Field(description="A program's name, from `GET /v1/models`.", max_length=200)
    messages: list[OpenAIMessage] = Field(min_length=1, description="The last one must be the user's.")
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Temperature | None = None
    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = Field(None, description="The newer name of `max_tokens`.")
    n: int | None = Field(None, description="Only 1.")

    @model_validator(mode="after")
    def _supported(self) -> CompletionBody:
        problem = self._first_problem()
        if problem is not None:
            raise problem
        return self

    def _first_problem(self) -> PydanticCustomError | None:
        extra = self.model_extra or {}
        if self.n not in (None, 1):
            return sentence("Only one answer can be asked for: “n” must be 1.")
        for name, text in _REFUSED.items():
            if extra.get(name):
                return sentence(text)
        modalities = extra.get("modalities")
        if isinstance(modalities, list) and any(kind != "text" for kind in modalities):
            return sentence("Only text can be answered: “modalities” must be [“text”].")
        form = extra.get("response_format")
        if form and not (isinstance(form, dict) and form.get("type") == "text"):
            return sentence("The program decides the form of its answer: “response_format” must be text.")
        return None

    @property
    def chat(self) -> list[Message]:
        """The user's and the assistant's messages."""
        return [
            Message(message.role, message.content)
            for message in self.messages
            if message.role == "user" or message.role == "assistant"
        ]

    @property
    def changes(self) -> dict[str, Any]:
        """What the client changes of the owner's choice of model."""
        tokens = self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens
        return {"temperature": self.temperature, "max_tokens": tokens}


class Model(BaseModel):
    """A program, as OpenAI describes a model."""

    id: str = Field(examples=["chain_of_thought"])
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(BaseModel):
    object: Literal["list"]
    data: list[Model]


class OpenAIErrorDetail(BaseModel):
    message: str
    type: str
    code: str
    param: str | None
    error_id: str


class OpenAIErrorBody(BaseModel):
    """An error, as OpenAI writes it."""

    error: OpenAIErrorDetail
