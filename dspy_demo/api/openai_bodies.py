"""The OpenAI-compatible request: what we use of it, what we refuse, and all else is ignored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from dspy_demo.api.bodies import Temperature, Tokens, sentence, without_nulls
from dspy_demo.api.problems import BadBody
from dspy_demo.errors import InvalidInput
from dspy_demo.events import Message
from dspy_demo.programs.chat_program import chat_messages
from dspy_demo.programs.spec import ProgramSpec

_CONTENT = {
    "anyOf": [
        {"type": "string"},
        {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
                "required": ["type", "text"],
            },
        },
    ],
    "examples": ["What is 2 + 2?"],
}


class OpenAIMessage(BaseModel):
    """A message of the chat. Of earlier messages, what is not text is left out."""

    role: str = Field(
        json_schema_extra={"enum": ["user", "assistant", "system", "developer", "tool", "function"]}
    )
    content: Annotated[Any, WithJsonSchema(_CONTENT)] = ""


class StreamOptions(BaseModel):
    include_usage: bool = False


def _document(schema: dict[str, Any]) -> None:
    without_nulls(schema)
    question = {"role": "user", "content": "What is 2 + 2?"}
    schema["examples"] = [
        {"model": "chain_of_thought", "messages": [question]},
        {"model": "chain_of_thought", "messages": [question], "stream": True},
        {"model": "chain_of_thought", "messages": [question], "response_format": {"type": "json_object"}},
    ]


def _listed(stop: Any) -> Any:
    return [stop] if isinstance(stop, str) else stop


StopTexts = Annotated[
    list[Annotated[str, Field(max_length=1000)]], Field(max_length=4), BeforeValidator(_listed)
]

#: Parameters that change what comes back, so that to ignore them would be a wrong answer.
_REFUSED = {
    "audio": "Audio is not supported; the answer is text.",
    "logprobs": "Log probabilities are not available.",
}
#: Where a client says whether tools must be called. Tools that are merely offered are left aside.
_TOOL_CHOICES = ("tool_choice", "function_call")


class CompletionBody(BaseModel):
    """A chat completion. `model` is a program's name.

    Other parameters that OpenAI's clients send are accepted and ignored. So are system messages, since a
    DSPy program brings its own instructions, and tools that are offered, since it calls its own.
    """

    model_config = ConfigDict(extra="allow", json_schema_extra=_document)

    model: str = Field(description="A program's name, from `GET /v1/models`.", max_length=200)
    messages: list[OpenAIMessage] = Field(min_length=1, description="The last one must be the user's.")
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Temperature | None = None
    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = Field(None, description="The newer name of `max_tokens`.")
    stop: StopTexts | None = Field(
        None,
        description="The content ends before the first of these texts; a list of at most 4, or one text.",
    )
    n: int | None = Field(None, description="Only 1.")
    response_format: Any = Field(
        None,
        description="`json_object` gives the answer's fields as JSON; `json_schema` those of its properties, "
        "which must be fields of the program.",
    )

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
        if any(_insists(extra.get(name)) for name in _TOOL_CHOICES):
            return sentence(
                "No call of a tool can be demanded: the program calls its own tools. "
                "Leave out “tool_choice”, or send “auto”."
            )
        modalities = extra.get("modalities")
        if isinstance(modalities, list) and any(kind != "text" for kind in modalities):
            return sentence("Only text can be answered: “modalities” must be [“text”].")
        return None

    @property
    def chat(self) -> Sequence[Message]:
        """The chat, of which the last message is the question.

        Raises:
            BadBody: The question cannot be read.
        """
        try:
            return chat_messages([{"role": each.role, "content": each.content} for each in self.messages])
        except InvalidInput as error:
            raise BadBody(error.public_message, "messages") from None

    @property
    def changes(self) -> dict[str, Any]:
        """What the client changes of the owner's choice of model."""
        tokens = self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens
        return {"temperature": self.temperature, "max_tokens": tokens}


def _insists(choice: Any) -> bool:
    """Whether a choice of tools leaves no answer without one: ``required``, or a tool by its name."""
    if isinstance(choice, dict) and choice.get("type") == "allowed_tools":
        allowed = choice.get("allowed_tools")
        choice = allowed.get("mode") if isinstance(allowed, dict) else None
    return choice not in (None, "auto", "none")


class UnsupportedFormat(BadBody):
    http_status = 400

    def __init__(self, public_message: str) -> None:
        super().__init__(public_message, "response_format")


def json_fields(response_format: Any, spec: ProgramSpec) -> tuple[str, ...] | None:
    """Which fields the content has to hold as a JSON object; None where it is text, and empty for all.

    Raises:
        UnsupportedFormat: The program cannot answer in that form.
    """
    kind = response_format.get("type") if isinstance(response_format, dict) else response_format
    if kind in (None, "text"):
        return None
    if kind == "json_object":
        return spec.outputs
    fields = ", ".join(f"“{name}”" for name in spec.outputs)
    if not spec.outputs:
        raise UnsupportedFormat(
            f"Only running the program “{spec.title}” tells its fields: “response_format” must be text or "
            "json_object."
        )
    if kind != "json_schema":
        raise UnsupportedFormat(
            f"“response_format” must be text, json_object, or a json_schema of these fields: {fields}."
        )
    named = _properties(response_format)
    if not named or not set(named) <= set(spec.outputs):
        raise UnsupportedFormat(
            f"The program “{spec.title}” answers in its own fields, so the “json_schema” may have only "
            f"these as properties: {fields}."
        )
    return named


def _properties(response_format: dict[str, Any]) -> tuple[str, ...]:
    """The names of a schema's properties; empty where it has none."""
    found: Any = response_format
    for key in ("json_schema", "schema", "properties"):
        found = found.get(key) if isinstance(found, dict) else None
    return tuple(found) if isinstance(found, dict) else ()


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
