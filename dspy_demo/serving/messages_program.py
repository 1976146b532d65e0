"""A program that another tool logged for MLflow's chat task: it takes messages, ours takes a question."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dspy

from dspy_demo.programs.spec import InputField, ProgramSpec


class MessagesProgram(dspy.Module):
    """Asks a module of the form ``forward(messages)`` a question, with the chat before it."""

    def __init__(self, program: dspy.Module) -> None:
        super().__init__()
        self.program = program

    async def aforward(self, question: str, history: dspy.History | None = None) -> dspy.Prediction:
        messages = [*_earlier(history), {"role": "user", "content": question}]
        if hasattr(self.program, "aforward"):
            return _prediction(await self.program.acall(messages))
        return _prediction(await dspy.asyncify(self.program)(messages))

    @classmethod
    def spec_for(cls, program: dspy.Module, name: str) -> ProgramSpec:
        return ProgramSpec(
            name=name,
            title=type(program).__name__,
            description="Logged elsewhere as a chat model.",
            build=lambda: cls(program),
            inputs=(InputField("question", label="Question"),),
            chat_field="question",
            history_field="history",
            answer_field="answer",
        )


def _earlier(history: dspy.History | None) -> list[dict[str, str]]:
    messages = []
    for pair in history.messages if history else []:
        messages.append({"role": "user", "content": pair["question"]})
        messages.append({"role": "assistant", "content": pair["answer"]})
    return messages


def _prediction(result: Any) -> dspy.Prediction:
    """MLflow's chat task also takes text and a dict for an answer (`dspy/wrapper.py`, 3.17)."""
    if isinstance(result, dspy.Prediction):
        return result
    if isinstance(result, Mapping):
        return dspy.Prediction(**{str(key): value for key, value in result.items() if key != "role"})
    return dspy.Prediction(answer=str(result))
