"""The OpenAI-compatible request. What is not named here is ignored."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from dspy_demo.api.bodies import MESSAGES_MAX, Temperature, Tokens, sentence
from dspy_demo.api.errors import BadBody
from dspy_demo.errors import InvalidInput
from dspy_demo.events import Message
from dspy_demo.programs.inputs import chat_messages
from dspy_demo.programs.spec import ProgramSpec

_EXAMPLE: dict[str, Any] = {
    "model": "chain_of_thought",
    "messages": [{"role": "user", "content": "What is 2 + 2?"}],
}
StopTexts = Annotated[
    list[Annotated[str, Field(max_length=1000)]],
    Field(max_length=4),
    BeforeValidator(lambda stop: [stop] if isinstance(stop, str) else stop),
]


class OpenAIMessage(BaseModel):
    """A message of the chat. Of earlier messages, what is not text is left out."""

    role: str
    content: Any = Field("", description="Text, or a list of parts {type: text, text: …}.")


class CompletionBody(BaseModel):
    """A chat completion. `model` is a program's name.

    Other parameters that OpenAI's clients send are accepted and ignored. So are system messages, since a
    DSPy program brings its own instructions, and tools that are offered, since it calls its own.
    """

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "examples": [
                _EXAMPLE | more for more in ({"stream": True}, {"response_format": {"type": "json_object"}})
            ]
        },
    )

    model: str = Field(description="A program's name, from `GET /v1/models`.", max_length=200)
    messages: list[OpenAIMessage] = Field(
        min_length=1, max_length=MESSAGES_MAX, description="The last one must be the user's."
    )
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    temperature: Temperature | None = None
    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = Field(None, description="The newer name of `max_tokens`.")
    stop: StopTexts | None = Field(None, description="The content ends before the first of at most 4 texts.")
    n: int | None = Field(None, description="Only 1.")
    response_format: Any = Field(
        None, description="Text, `json_object`, or `json_schema` with properties that the program has."
    )

    @model_validator(mode="after")
    def _supported(self) -> CompletionBody:
        """Refuse what changes the answer, so that to ignore it would be wrong."""
        extra = self.model_extra or {}
        modalities = extra.get("modalities")
        if self.n not in (None, 1):
            raise sentence("Only one answer can be asked for: “n” must be 1.")
        if extra.get("audio") or (isinstance(modalities, list) and set(map(str, modalities)) - {"text"}):
            raise sentence("Only text can be answered: leave out “audio”; “modalities” must be [“text”].")
        if extra.get("logprobs"):
            raise sentence("Log probabilities are not available.")
        for choice in (extra.get("tool_choice"), extra.get("function_call")):
            match choice:
                case None | "auto" | "none":
                    continue
                case {"type": "allowed_tools", "allowed_tools": {"mode": "auto"}}:
                    continue
            raise sentence(
                "No call of a tool can be demanded: the program calls its own tools. "
                "Leave out “tool_choice”, or send “auto”."
            )
        return self

    @property
    def chat(self) -> tuple[Message, ...]:
        """The chat, of which the last message is the question.

        Raises:
            BadBody: The question cannot be read.
        """
        try:
            return chat_messages([{"role": each.role, "content": each.content} for each in self.messages])
        except InvalidInput as error:
            raise BadBody(error.public_message, "messages") from None

    def json_fields(self, spec: ProgramSpec) -> tuple[str, ...] | None:
        """Which fields the content has to hold as a JSON object; None where it is text, and empty for all.

        Raises:
            UnsupportedFormat: The program cannot answer in that form.
        """
        match self.response_format:
            case None | "text" | {"type": "text" | None}:
                return None
            case {"type": "json_object"}:
                return spec.outputs
            case {"type": "json_schema", "json_schema": {"schema": {"properties": {**properties}}}}:
                if properties and set(properties) <= set(spec.outputs):
                    return tuple(map(str, properties))
        fields = ", ".join(f"“{name}”" for name in spec.outputs) or "not known before it has run"
        raise UnsupportedFormat(
            "“response_format” must be text, json_object, or a json_schema whose properties are fields of "
            f"the program “{spec.title}” ({fields}).",
            "response_format",
        )


class UnsupportedFormat(BadBody):
    http_status = 400
