"""What a program takes and gives, read off any `dspy.Module`."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin

import dspy
from pydantic_core import PydanticUndefined

from dspy_demo.errors import ProgramLoadError
from dspy_demo.programs.spec import REASONING_FIELDS, InputField, InputKind, ProgramSpec


def spec_of(module: dspy.Module, *, name: str, title: str = "", description: str = "") -> ProgramSpec:
    """The spec of a program that we did not write.

    Its inputs are those of its signature where it has one (`dspy.Predict`, `dspy.ReAct`,
    `dspy.ChainOfThought`, and `dspy.BestOfN` or `dspy.Refine` of one of them), else the parameters of its
    ``forward``, whose types are their hints or those of the predictors' inputs of the same name.

    Raises:
        ProgramLoadError: It has no input that a chat box could fill.
    """
    signature = _own_signature(module)
    if signature is not None:
        inputs = [_from_signature(key, field) for key, field in signature.input_fields.items()]
        outputs = tuple(key for key in signature.output_fields if key not in REASONING_FIELDS)
    else:
        inputs = _from_forward(module)
        outputs = ()
    history = next((field.name for field in inputs if _without_none(field.annotation) is dspy.History), None)
    inputs = [field for field in inputs if field.name != history]
    chat_field = next((field.name for field in inputs if field.kind == "text"), None)
    if chat_field is None:
        raise ProgramLoadError(
            f"The program “{title or name}” has no text input, so there is nothing to chat with. "
            "Give its signature or its forward() an input of type str."
        )
    return ProgramSpec(
        name=name,
        title=title or name,
        description=description,
        build=lambda: module,
        inputs=tuple(inputs),
        chat_field=chat_field,
        outputs=outputs,
        history_field=history,
        answer_field=outputs[0] if outputs else _remembered(module),
    )


def _own_signature(module: dspy.Module) -> Any:
    if isinstance(module, dspy.BestOfN | dspy.Refine):
        return _own_signature(module.module)
    if isinstance(module, dspy.ChainOfThought):
        return module.predict.signature
    signature = getattr(module, "signature", None)
    return signature if hasattr(signature, "input_fields") else None


def _remembered(module: dspy.Module) -> str | None:
    """The field by which the history holds the answer: what the predictor writes that takes the history."""
    for predictor in module.predictors():
        signature = predictor.signature
        if any(_without_none(field.annotation) is dspy.History for field in signature.input_fields.values()):
            return next((name for name in signature.output_fields if name not in REASONING_FIELDS), None)
    return None


def _from_signature(name: str, field: Any) -> InputField:
    required = field.default is PydanticUndefined
    extra = field.json_schema_extra or {}
    description = extra.get("desc") or ""
    return _field(
        name,
        field.annotation,
        required=required,
        default=None if required else field.default,
        description="" if description.startswith("${") else description,
    )


def _from_forward(module: dspy.Module) -> list[InputField]:
    forward = getattr(type(module), "aforward", None) or type(module).forward
    try:
        hints = typing.get_type_hints(forward)
    except (NameError, TypeError):
        hints = {}
    parameters = list(inspect.signature(forward).parameters.values())[1:]
    named = [p for p in parameters if p.kind not in {p.VAR_POSITIONAL, p.VAR_KEYWORD}]
    if not named:
        predictors = module.predictors()
        if not predictors:
            return []
        return [_from_signature(key, field) for key, field in predictors[0].signature.input_fields.items()]
    asked = [predictor.signature.input_fields for predictor in module.predictors()]
    return [
        _field(
            p.name,
            _type_of(p.name, hints, asked),
            required=p.default is p.empty,
            default=None if p.default is p.empty else p.default,
        )
        for p in named
    ]


def _type_of(name: str, hints: Mapping[str, Any], asked: Sequence[Mapping[str, Any]]) -> Any:
    """The type of a parameter: its hint, else that of the first predictor's input of that name, else text."""
    if hints.get(name, Any) is not Any:
        return hints[name]
    return next((fields[name].annotation for fields in asked if name in fields), str)


def _field(name: str, annotation: Any, *, required: bool, default: Any, description: str = "") -> InputField:
    optional = _without_none(annotation)
    kind, choices = _kind(optional)
    return InputField(
        name=name,
        kind=kind,
        label=name.replace("_", " ").capitalize(),
        description=description,
        choices=choices,
        required=required and optional is annotation,
        default=default,
        annotation=annotation,
    )


def _without_none(annotation: Any) -> Any:
    if get_origin(annotation) in (Union, types.UnionType):
        rest = [part for part in get_args(annotation) if part is not type(None)]
        return rest[0] if len(rest) == 1 and len(rest) < len(get_args(annotation)) else annotation
    return annotation


def _kind(annotation: Any) -> tuple[InputKind, tuple[str, ...]]:
    plain: dict[Any, InputKind] = {str: "text", bool: "boolean", int: "integer", float: "number", Any: "text"}
    if annotation in plain:
        return plain[annotation], ()
    if get_origin(annotation) is Literal and all(isinstance(choice, str) for choice in get_args(annotation)):
        return "choice", get_args(annotation)
    return ("image" if annotation is dspy.Image else "json"), ()
