"""The programs that come with the app, in the order of the picker."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import dspy

from dspy_demo.programs.spec import InputField, ProgramSpec
from dspy_demo.programs.tools import calculator, current_time, text_statistics

#: Steps of ReAct: enough for every tool once and some mistakes; each one is a paid call.
MAX_STEPS = 8
TOOLS = [calculator, current_time, text_statistics]


class Answer(dspy.Signature):
    """Answer the question, in the light of the conversation so far."""

    question: str = dspy.InputField()
    history: dspy.History = dspy.InputField(desc="the conversation so far")
    answer: str = dspy.OutputField()


class DraftAndReview(dspy.Module):
    """Drafts an answer, then reviews it with a reason."""

    answer_step = "review"

    def __init__(self) -> None:
        super().__init__()
        draft = "Answer the question as well as you can at first sight."
        review = "Check the draft against the question, correct it where it is wrong, and give the answer."
        self.draft = dspy.Predict(dspy.Signature("question -> answer", draft))
        self.review = dspy.ChainOfThought(dspy.Signature("question, draft -> answer", review))

    def forward(self, question: str) -> dspy.Prediction:
        draft = self.draft(question=question)
        return self.review(question=question, draft=draft.answer)

    async def aforward(self, question: str) -> dspy.Prediction:
        draft = await self.draft.acall(question=question)
        return await self.review.acall(question=question, draft=draft.answer)


def _shipped(build: Callable[[], dspy.Module], memory: str | None = "history", **texts: Any) -> ProgramSpec:
    names: dict[str, Any] = {"chat_field": "question", "history_field": memory, "answer_field": "answer"}
    return ProgramSpec(build=build, inputs=(InputField("question"),), outputs=("answer",), **names, **texts)


SHIPPED = (
    _shipped(
        lambda: dspy.ChainOfThought(Answer),
        name="chain_of_thought",
        title="Chain of thought",
        description="Reasons step by step, then answers. Remembers the chat.",
        examples=("What is 2 + 2?", "What is 15% of 240?", "What is 7 squared minus 9?", "What is 2 / 3?"),
    ),
    _shipped(
        lambda: dspy.Predict(Answer),
        name="predict",
        title="Plain predict",
        description="Answers at once, without reasoning first. Remembers the chat.",
        examples=("What is 12 * 7?", "What is 15% of 80?", "What is 1000 divided by 8?", "What is 2^10?"),
    ),
    _shipped(
        lambda: dspy.ReAct(Answer, tools=TOOLS, max_iters=MAX_STEPS),
        name="react",
        title="ReAct with tools",
        description="Thinks, calls a calculator, a clock or text statistics, and answers from what they say.",
        examples=("What is 1234 * 5678?", "What time is it in Tokyo?", "What is 2^20?", "What is the date?"),
    ),
    _shipped(
        DraftAndReview,
        memory=None,
        name="draft_and_review",
        title="Draft and review",
        description="Two steps: one predictor drafts an answer, a second one reviews it and answers.",
        examples=("What is 12 * 12?", "What is 0.1 + 0.2?", "What is 25% of 320?", "What is 2^10 - 24?"),
    ),
)
