"""A program as MLflow's chat models see it: messages or named fields in, JSON-ready fields out.

A copy of this file travels with every version, so it imports nothing but DSPy, what DSPy brings, and the
standard library.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import dspy
from pydantic_core import to_jsonable_python

Messages = Sequence[Mapping[str, Any]]
Role = Literal["user", "assistant"]
_TEXT_PARTS = ("text", "input_text", "output_text")


class ChatProgram(dspy.Module):
    """Answers messages with a program of named fields: MLflow passes those of ``task="llm/v1/chat"``
    positionally, which no DSPy module takes, and writes the prediction with plain `json.dumps`.
    """

    def __init__(
        self, program: dspy.Module, *, chat_field: str, history_field: str | None, answer_field: str | None
    ) -> None:
        super().__init__()
        self.program, self.chat_field, self.history_field = program, chat_field, history_field
        self.answer_field = answer_field or "answer"

    def forward(self, messages: Messages | None = None, **fields: Any) -> dspy.Prediction:
        return self._prediction(self.program(**self._arguments(messages, fields)))

    async def aforward(self, messages: Messages | None = None, **fields: Any) -> dspy.Prediction:
        arguments = self._arguments(messages, fields)
        if hasattr(self.program, "aforward"):
            return self._prediction(await self.program.acall(**arguments))
        return self._prediction(await dspy.asyncify(self.program)(**arguments))

    def _arguments(self, messages: Messages | None, fields: dict[str, Any]) -> dict[str, Any]:
        earlier: list[tuple[Role, str]] = []
        if messages is not None:
            *earlier, (_, question) = read_messages(messages)
            if not question.strip():
                raise ValueError("The question is empty. Fill it in and send again.")
            fields = {self.chat_field: question, **fields}
        if self.history_field is None:
            return fields
        pairs = history_pairs(earlier, self.chat_field, self.answer_field)
        return {self.history_field: dspy.History(messages=pairs), **fields}

    def _prediction(self, result: Any) -> dspy.Prediction:
        return dspy.Prediction(**json_ready(as_prediction(result, self.answer_field)))


def read_messages(messages: Messages) -> list[tuple[Role, str]]:
    """OpenAI-style messages as role and text; the last one is the question, else a `ValueError` says why.
    What is not text before it is left out, or it would refuse all later questions; system messages too.
    """
    chat = [message for message in messages if message.get("role") not in ("system", "developer")]
    if not chat or chat[-1].get("role") != "user":
        raise ValueError("The last of the “messages” must be the user's: an answer cannot be continued here.")
    content = chat[-1].get("content")
    if len(_texts(content)) < (len(content) if isinstance(content, list) else 1):
        raise ValueError("Only text can be sent: every part of it must be {“type”: “text”, “text”: …}.")
    read = [(one.get("role"), "\n".join(_texts(one.get("content")))) for one in chat]
    earlier = [(role, text) for role, text in read[:-1] if role in ("user", "assistant") and text.strip()]
    return [*earlier, read[-1]]


def _texts(content: Any) -> list[str]:
    """The texts of a message's content, however its parts were sent; nothing of what is not text."""
    if isinstance(content, str):
        return [content]
    parts = [part for part in content if isinstance(part, Mapping)] if isinstance(content, list) else []
    texts = [part.get("text") for part in parts if part.get("type") in _TEXT_PARTS]
    return [text for text in texts if isinstance(text, str)]


def history_pairs(
    messages: Iterable[tuple[str, str]], chat_field: str, answer_field: str
) -> list[dict[str, str]]:
    """Question and answer by the program's own field names. A question without an answer is left out."""
    pairs: list[dict[str, str]] = []
    question: str | None = None
    for role, text in messages:
        if role == "user":
            question = text
        elif question is not None:
            pairs.append({chat_field: question, answer_field: text})
            question = None
    return pairs


def as_prediction(result: Any, answer_field: str) -> dspy.Prediction:
    """What a program returned, as a prediction: text is its answer, a dict holds its fields."""
    if isinstance(result, dspy.Prediction):
        return result
    result = {answer_field: result} if isinstance(result, str) else result
    if isinstance(result, Mapping) and result and all(isinstance(name, str) for name in result):
        return dspy.Prediction(**result)
    raise TypeError(f"the program returned a {type(result).__name__}")


def json_ready(prediction: dspy.Prediction) -> dict[str, Any]:
    """The fields of a prediction as JSON values; what has no JSON form, also NaN, becomes its text."""
    return {str(name): _json_value(value) for name, value in prediction.items(include_dspy=False)}


def _json_value(value: Any) -> Any:
    if isinstance(value, dspy.Reasoning):
        return value.content
    value = to_jsonable_python(value, serialize_unknown=True, fallback=str, inf_nan_mode="strings")
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
