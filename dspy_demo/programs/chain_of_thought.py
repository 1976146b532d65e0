"""Chain of thought with a memory: the default program."""

from __future__ import annotations

import dspy


class Answer(dspy.Signature):
    """Answer the question, in the light of the conversation so far."""

    question: str = dspy.InputField()
    history: dspy.History = dspy.InputField(desc="the conversation so far")
    answer: str = dspy.OutputField()


def build() -> dspy.Module:
    return dspy.ChainOfThought(Answer)
