"""ReAct: thinks, calls tools, and answers from what they say."""

from __future__ import annotations

import dspy

from dspy_demo.programs.chain_of_thought import Answer
from dspy_demo.programs.tools import calculator, current_time, text_statistics

#: Enough for every tool once and some mistakes; each one is a paid call.
MAX_STEPS = 8


def build() -> dspy.Module:
    return dspy.ReAct(Answer, tools=[calculator, current_time, text_statistics], max_iters=MAX_STEPS)
