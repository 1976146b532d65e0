"""The programs that come with the app, in the order of the picker."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dspy_demo.programs.spec import InputField, ProgramSpec

if TYPE_CHECKING:
    import dspy

QUESTION = InputField("question", label="Question")


def _chain_of_thought() -> dspy.Module:
    from dspy_demo.programs.chain_of_thought import build

    return build()


def _predict() -> dspy.Module:
    from dspy_demo.programs.plain_predict import build

    return build()


def _react() -> dspy.Module:
    from dspy_demo.programs.react import build

    return build()


def _draft_and_review() -> dspy.Module:
    from dspy_demo.programs.draft_and_review import DraftAndReview

    return DraftAndReview()


#: Building is lazy: listing the programs must not import dspy, which takes a second or two.
SHIPPED: tuple[ProgramSpec, ...] = (
    ProgramSpec(
        name="chain_of_thought",
        title="Chain of thought",
        description="Reasons step by step, then answers. Remembers the chat.",
        build=_chain_of_thought,
        inputs=(QUESTION,),
        chat_field="question",
        outputs=("answer",),
        history_field="history",
        answer_field="answer",
        examples=(
            "What is 2 + 2?",
            "What is 15% of 240, plus 3^4?",
            "What is (2 + 3) * 4 - 6 / 2?",
            "What is 7 squared minus 9?",
        ),
    ),
    ProgramSpec(
        name="predict",
        title="Plain predict",
        description="Answers at once, without reasoning first. Remembers the chat.",
        build=_predict,
        inputs=(QUESTION,),
        chat_field="question",
        outputs=("answer",),
        history_field="history",
        answer_field="answer",
        examples=(
            "What is 12 * 7?",
            "What is 15% of 80?",
            "What is (1/3 + 1/6) * 4?",
            "What is 1000 divided by 8?",
        ),
    ),
    ProgramSpec(
        name="react",
        title="ReAct with tools",
        description="Thinks, calls a calculator, a clock or text statistics, and answers from what they say.",
        build=_react,
        inputs=(QUESTION,),
        chat_field="question",
        outputs=("answer",),
        history_field="history",
        answer_field="answer",
        examples=(
            "What is 1234 * 5678?",
            "What time is it in Tokyo?",
            "What is 2^20 / 3?",
            "What time is it in New York?",
        ),
    ),
    ProgramSpec(
        name="draft_and_review",
        title="Draft and review",
        description="Two steps: one predictor drafts an answer, a second one reviews it and answers.",
        build=_draft_and_review,
        inputs=(QUESTION,),
        chat_field="question",
        outputs=("answer",),
        answer_field="answer",
        examples=(
            "What is 12 * 12 - 44?",
            "What is 0.1 + 0.2?",
            "What is 25% of 320?",
            "What is 2^10 - 24?",
        ),
    ),
)
