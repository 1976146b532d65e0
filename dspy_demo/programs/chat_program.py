"""A program as MLflow's chat models see it: messages or named fields in, JSON-ready fields out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import dspy

from dspy_demo.errors import InvalidInput
from dspy_demo.events import Message
from dspy_demo.programs.inputs import program_inputs
from dspy_demo.programs.outputs import json_ready, prediction_of
from dspy_demo.programs.spec import ProgramSpec


class ChatProgram(dspy.Module):
    """Answers messages with a program of named fields.

    MLflow passes the message list of ``task="llm/v1/chat"`` positionally, so a bare `dspy.ChainOfThought`
    is logged with a warning only and cannot answer. It then writes the prediction with plain `json.dumps`,
    which knows no Enum, date or dataclass, so the prediction holds JSON values only.

    Attributes:
        program: The program itself; the model server streams this one.
        spec: What it takes and gives. Its `build` is the program's class or maker, which pickles by name.
    """

    def __init__(self, program: dspy.Module, spec: ProgramSpec) -> None:
        super().__init__()
        self.program = program
        self.spec = spec

    def forward(self, messages: Sequence[Mapping[str, Any]] | None = None, **fields: Any) -> dspy.Prediction:
        return self._prediction(self.program(**self._arguments(messages, fields)))

    async def aforward(
        self, messages: Sequence[Mapping[str, Any]] | None = None, **fields: Any
    ) -> dspy.Prediction:
        arguments = self._arguments(messages, fields)
        if hasattr(self.program, "aforward"):
            return self._prediction(await self.program.acall(**arguments))
        return self._prediction(await dspy.asyncify(self.program)(**arguments))

    def _arguments(
        self, messages: Sequence[Mapping[str, Any]] | None, fields: dict[str, Any]
    ) -> dict[str, Any]:
        if messages is None:
            return program_inputs(self.spec, fields, ())
        *earlier, question = chat_messages(messages)
        return program_inputs(self.spec, {self.spec.chat_field: question.text, **fields}, earlier)

    def _prediction(self, result: Any) -> dspy.Prediction:
        return dspy.Prediction(**json_ready(prediction_of(result, self.spec)))


_SYSTEM_ROLES, _TOOL_ROLES = ("system", "developer"), ("tool", "function")
_TEXT_PARTS = ("text", "input_text", "output_text")


def chat_messages(messages: Sequence[Mapping[str, Any]]) -> tuple[Message, ...]:
    """OpenAI-style messages as ours, of which the last is the question.

    Only the question has to be readable. Of the messages before it, whatever is not text is left out: a
    picture, a refusal, a tool's message. One of them would otherwise refuse every later question of its chat.
    System messages are left out too: a DSPy program brings its own instructions.

    Raises:
        InvalidInput: The last message is not the user's, or has content that is not text.
    """
    spoken = [(n, message) for n, message in enumerate(messages) if message.get("role") not in _SYSTEM_ROLES]
    if not spoken:
        raise InvalidInput("The last of the “messages” must be the user's.")
    number, last = spoken.pop()
    question = _question(last, f"messages[{number}].content")
    earlier = (
        Message(message["role"], "\n".join(_texts(message.get("content"))))
        for _, message in spoken
        if message.get("role") in ("user", "assistant")
    )
    return (*(message for message in earlier if message.text.strip()), Message("user", question))


def _question(message: Mapping[str, Any], place: str) -> str:
    role, content = message.get("role"), message.get("content")
    if role == "assistant":
        raise InvalidInput(
            "An answer cannot be continued here: the last of the “messages” must be the user's."
        )
    if role in _TOOL_ROLES:
        raise InvalidInput("Messages of tools are not taken: the program calls its own tools.")
    if role != "user":
        raise InvalidInput(f"A message has the role “{str(role)[:40]}”; use user and assistant.")
    if not isinstance(content, str | list):
        raise InvalidInput(f"The field “{place}” must be text.")
    texts = _texts(content)
    if isinstance(content, list) and len(texts) < len(content):
        raise InvalidInput(
            "Only text can be sent: every part of a message must be {“type”: “text”, “text”: …}."
        )
    return "\n".join(texts)


def _texts(content: Any) -> list[str]:
    """The texts of a message's content, however its parts were sent; nothing of what is not text."""
    if isinstance(content, str):
        return [content]
    parts = content if isinstance(content, list) else []
    texts = [
        part.get("text") for part in parts if isinstance(part, Mapping) and part.get("type") in _TEXT_PARTS
    ]
    return [text for text in texts if isinstance(text, str)]
