"""What a program gives back, as a prediction."""

from __future__ import annotations

from typing import Any

import dspy

from dspy_demo.errors import ProgramLoadError
from dspy_demo.programs.chat_program import as_prediction
from dspy_demo.programs.spec import ProgramSpec


def prediction_of(result: Any, spec: ProgramSpec) -> dspy.Prediction:
    """What a program returned, as a prediction: text is its answer, a dict holds its fields.

    Raises:
        ProgramLoadError: It is something else.
    """
    try:
        return as_prediction(result, spec.answer_field or next(iter(spec.outputs), "answer"))
    except TypeError as error:
        raise ProgramLoadError(
            f"The program “{spec.title}” returned a {type(result).__name__}. It must return a "
            "dspy.Prediction, text, or a dict of its output fields."
        ) from error
