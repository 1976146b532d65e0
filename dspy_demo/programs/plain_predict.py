"""The smallest program: one predictor, no reasoning."""

from __future__ import annotations

import dspy

from dspy_demo.programs.chain_of_thought import Answer


def build() -> dspy.Module:
    return dspy.Predict(Answer)
