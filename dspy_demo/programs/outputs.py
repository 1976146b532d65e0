"""A prediction as JSON: every output field, in order."""

from __future__ import annotations

import math
from typing import Any

import dspy
from pydantic_core import to_jsonable_python


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
