"""A program as MLflow's chat models see it: OpenAI-style messages or named fields in, fields out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import dspy

from dspy_demo.errors import InvalidInput
from dspy_demo.events import Message
from dspy_demo.programs.inputs import program_inputs
from dspy_demo.programs.spec import ProgramSpec


class ChatProgram(dspy.Module):
    """Answers messages with a program of named fields.

    MLflow (3.17) passes the message list of ``task="llm/v1/chat"`` positionally, so a bare
    `dspy.ChainOfThought` is logged with a warning only and cannot answer.

    Attributes:
        program: The program itself; the model server streams this one.
        spec: What it takes and gives. Its `build` is the program's class or maker, which pickles by name.
    """

    def __init__(self, program: dspy.Module, spec: ProgramSpec) -> None:
        super().__init__()
        self.program = program
        self.spec = spec

    def forward(self, messages: Sequence[Mapping[str, Any]] | None = None, **fields: Any) -> dspy.Prediction:
        return self.program(**self._arguments(messages, fields))

    async def aforward(
        self, messages: Sequence[Mapping[str, Any]] | None = None, **fields: Any
    ) -> dspy.Prediction:
        arguments = self._arguments(messages, fields)
        if hasattr(self.program, "aforward"):
            return await self.program.acall(**arguments)
        return await dspy.asyncify(self.program)(**arguments)

    def _arguments(
        self, messages: Sequence[Mapping[str, Any]] | None, fields: dict[str, Any]
    ) -> dict[str, Any]:
        if messages is None:
            return program_inputs(self.spec, fields, ())
        chat = chat_messages(messages)
        if not chat or chat[-1].role != "user":
            raise InvalidInput("The last message must be the user's.")
        return program_inputs(self.spec, {self.spec.chat_field: chat[-1].text, **fields}, chat[:-1])


def chat_messages(messages: Sequence[Mapping[str, Any]]) -> tuple[Message, ...]:
    """OpenAI-style messages as ours. A system message is left out: a DSPy program has its own.

    Raises:
        InvalidInput: A message has another role, or content that is not text.
    """
    kept = []
    for message in messages:
        role, content = message.get("role"), message.get("content")
        if role in {"system", "developer"}:
            continue
        if role not in {"user", "assistant"}:
            raise InvalidInput(f"A message has the role “{str(role)[:40]}”; use user and assistant.")
        kept.append(Message(role, _text(content)))
    return tuple(kept)


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        parts = [
            part.get("text") for part in content if isinstance(part, Mapping) and part.get("type") == "text"
        ]
        if len(parts) == len(content) and all(isinstance(part, str) for part in parts):
            return "\n".join(str(part) for part in parts)
    raise InvalidInput("The content of a message must be text.")
