"""What a program gives back: a prediction, and each of its output fields as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import dspy
from pydantic_core import to_jsonable_python

from dspy_demo.errors import ProgramLoadError
from dspy_demo.programs.spec import ProgramSpec


def prediction_of(result: Any, spec: ProgramSpec) -> dspy.Prediction:
    """What a program returned, as a prediction: text is its answer, a dict holds its fields.

    Raises:
        ProgramLoadError: It is something else.
    """
    if isinstance(result, dspy.Prediction):
        return result
    if isinstance(result, str):
        return dspy.Prediction(**{spec.answer_field or next(iter(spec.outputs), "answer"): result})
    if isinstance(result, Mapping) and result and all(isinstance(name, str) for name in result):
        return dspy.Prediction(**result)
    raise ProgramLoadError(
        f"The program “{spec.title}” returned a {type(result).__name__}. It must return a dspy.Prediction, "
        "text, or a dict of its output fields."
    )


def json_ready(prediction: dspy.Prediction) -> dict[str, Any]:
    """The fields of a prediction as JSON values; what has no JSON form becomes its text.

    A `dspy.Reasoning` is plain text, NaN and infinity (which JSON lacks) become text too.
    """
    return {str(name): _value(value) for name, value in prediction.items(include_dspy=False)}


def _value(value: Any) -> Any:
    if isinstance(value, dspy.Reasoning):
        return value.content
    return _finite(to_jsonable_python(value, serialize_unknown=True, fallback=str, inf_nan_mode="strings"))


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
