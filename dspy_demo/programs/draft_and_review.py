"""Two predictors that share the field name `answer`: the second one's is the answer."""

from __future__ import annotations

import dspy


class Draft(dspy.Signature):
    """Answer the question as well as you can at first sight."""

    question: str = dspy.InputField()
    answer: str = dspy.OutputField(desc="a first answer")


class Review(dspy.Signature):
    """Check the draft against the question. Correct it where it is wrong, and give the final answer."""

    question: str = dspy.InputField()
    draft: str = dspy.InputField(desc="a first answer, which may be wrong")
    answer: str = dspy.OutputField(desc="the final answer")


class DraftAndReview(dspy.Module):
    """Drafts an answer, then reviews it with a reason."""

    answer_step = "review"

    def __init__(self) -> None:
        super().__init__()
        self.draft = dspy.Predict(Draft)
        self.review = dspy.ChainOfThought(Review)

    def forward(self, question: str) -> dspy.Prediction:
        draft = self.draft(question=question)
        return self.review(question=question, draft=draft.answer)

    async def aforward(self, question: str) -> dspy.Prediction:
        draft = await self.draft.acall(question=question)
        return await self.review.acall(question=question, draft=draft.answer)
