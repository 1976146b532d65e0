"""A user's own program: loaded from a module or a ``.py`` file, and its spec read off it."""

from __future__ import annotations

import importlib
import inspect
import sys
import types
import typing
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, Union, get_args, get_origin

import dspy
from pydantic_core import PydanticUndefined

from dspy_demo.errors import DemoError, ProgramLoadError
from dspy_demo.programs.loaded_code import note_loaded_code
from dspy_demo.programs.spec import REASONING_FIELDS, InputField, InputKind, ProgramSpec


def load_program(reference: str) -> ProgramSpec:
    """The spec of a `dspy.Module`, a class of one, or a function that makes one: ``path/file.py:NAME`` or
    ``package.module:NAME``, without NAME where it is the only one or is ``program``; or `ProgramLoadError`.
    """
    try:
        return _loaded(reference)
    except DemoError:
        raise
    except Exception as error:
        failed = f"it failed with {type(error).__name__}: {error}"
        raise ProgramLoadError(f"--program {reference}: {failed}") from error


def _loaded(reference: str) -> ProgramSpec:
    source, _, name = reference.rpartition(":")
    if name.endswith(".py") or not name.isidentifier():
        source, name = reference, ""  # the colon, if any, is a Windows drive's
    if not source.endswith(".py") and (not name or not source):
        raise ProgramLoadError(
            f"--program {reference}: there is no shipped program of that name. Name your own as "
            "package.module:attribute or path/to/file.py."
        )
    code = _imported(source)
    name, found = _program(code, name, reference)
    module = found() if callable(found) and not isinstance(found, dspy.Module) else found
    kind = type(module)
    if not isinstance(module, dspy.Module):
        raise ProgramLoadError(f"--program {reference}: it is a {kind.__name__}, not a dspy.Module.")
    if name == "program":  # says nothing; its file does
        name = code.__name__.rpartition(".")[2]
    # The class's own words, not inherited ones or those of DSPy.
    summary = inspect.cleandoc(vars(kind).get("__doc__") or "") if kind.__module__ == code.__name__ else ""
    title = name.replace("_", " ").strip().capitalize()
    description = summary.partition("\n")[0] or f"Your own program, {reference}"
    return spec_of(module, name=name, title=title, description=description)


def _imported(source: str) -> ModuleType:
    """The module of a name or a file, by its import path: its classes are pickled into a version."""
    folders = [Path.cwd()]
    if source.endswith(".py"):
        path = Path(source).expanduser().resolve()
        known = sys.modules.get(path.stem)
        if not path.is_file():
            raise ProgramLoadError(f"--program: there is no file {path}.")
        if not path.stem.isidentifier() or (known and getattr(known, "__file__", None) != str(path)):
            text = f"Rename {path.name}. It must be named like a Python module, and like no loaded one."
            raise ProgramLoadError(f"--program: {text}")
        source, folders = path.stem, [path.parent, *folders]
    sys.path[:0] = [folder for folder in map(str, reversed(folders)) if folder not in sys.path]
    code = importlib.import_module(source)
    note_loaded_code()
    return code


def _program(code: ModuleType, name: str, reference: str) -> tuple[str, Any]:
    """The attribute of that name, or else the only program there: instances come before classes."""
    found = vars(code).items()
    instances = [key for key, value in found if isinstance(value, dspy.Module)]
    classes = [
        key
        for key, value in found
        if inspect.isclass(value) and issubclass(value, dspy.Module) and value.__module__ == code.__name__
    ]
    names = [*instances, *classes]
    if not name:
        name = names[0] if len(instances or classes) == 1 and "program" not in names else "program"
    if not hasattr(code, name):
        there = f"There are: {', '.join(names)}. Say which one, as in {reference}:NAME"
        raise ProgramLoadError(
            f"--program {reference}: it has no {name!r}. {there if names else 'No dspy.Module'}."
        )
    return name, getattr(code, name)


def spec_of(module: dspy.Module, *, name: str, title: str = "", description: str = "") -> ProgramSpec:
    """The spec of a program that we did not write; without an input for a chat box a `ProgramLoadError`.
    Its inputs are those of its signature where it has one (as `dspy.Predict`), else those of its ``forward``.
    """
    if (signature := _own_signature(module)) is not None:
        inputs = _from_fields(signature.input_fields)
        outputs = tuple(key for key in signature.output_fields if key not in REASONING_FIELDS)
    else:
        inputs, outputs = _from_forward(module), ()
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


def _from_fields(fields: dict[str, Any]) -> list[InputField]:
    texts = {name: (field.json_schema_extra or {}).get("desc") or "" for name, field in fields.items()}
    return [
        _field(name, field.annotation, field.default, "" if texts[name].startswith("${") else texts[name])
        for name, field in fields.items()
    ]


def _from_forward(module: dspy.Module) -> list[InputField]:
    """The parameters of ``forward``, each of its hint's type, else of a predictor's input of its name."""
    forward = getattr(type(module), "aforward", None) or type(module).forward
    try:
        hints = typing.get_type_hints(forward)
    except (NameError, TypeError):
        hints = {}
    parameters = list(inspect.signature(forward).parameters.values())[1:]
    named = [p for p in parameters if p.kind not in {p.VAR_POSITIONAL, p.VAR_KEYWORD}]
    asked = [predictor.signature.input_fields for predictor in module.predictors()]
    if not named:
        return _from_fields(asked[0] if asked else {})
    known = {name: field.annotation for fields in reversed(asked) for name, field in fields.items()}
    known |= {name: hint for name, hint in hints.items() if hint is not Any}
    defaults = {p.name: PydanticUndefined if p.default is p.empty else p.default for p in named}
    return [_field(name, known.get(name, str), default) for name, default in defaults.items()]


def _field(name: str, annotation: Any, default: Any, description: str = "") -> InputField:
    type_, required = _without_none(annotation), default is PydanticUndefined
    kinds: dict[Any, InputKind] = {str: "text", bool: "boolean", int: "integer", float: "number", Any: "text"}
    kinds[dspy.Image] = "image"
    options = get_args(type_) if get_origin(type_) is Literal else ()
    chosen = bool(options) and all(isinstance(option, str) for option in options)
    return InputField(
        name,
        kind="choice" if chosen else kinds.get(type_, "json"),
        description=description,
        choices=options if chosen else (),
        required=required and type_ is annotation,
        default=None if required else default,
        annotation=annotation,
    )


def _without_none(annotation: Any) -> Any:
    if get_origin(annotation) in (Union, types.UnionType):
        rest = [part for part in get_args(annotation) if part is not type(None)]
        return rest[0] if len(rest) == 1 else annotation
    return annotation
