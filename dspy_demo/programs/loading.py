"""A user's own program, by ``package.module:attribute`` or by a ``.py`` file."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import dspy

from dspy_demo.errors import ProgramLoadError
from dspy_demo.programs.inspecting import spec_of
from dspy_demo.programs.loaded_code import note_loaded_code
from dspy_demo.programs.spec import ProgramSpec


def load_program(reference: str) -> ProgramSpec:
    """The spec of the program that `reference` names.

    The attribute is a `dspy.Module`, a class of one, or a function without arguments that makes one. For a
    file it may be left out where the file has just one of them, or one named ``program``.

    Raises:
        ProgramLoadError: With the reason, for whoever wrote the program.
    """
    source, attribute = _parts(reference)
    code = _import_file(Path(source)) if source.endswith(".py") else _import_module(source)
    note_loaded_code()
    name, found = _attribute(code, attribute, reference)
    module = _instance(found, reference)
    if name == "program":  # says nothing; its file does
        name = code.__name__.rpartition(".")[2]
    summary = (inspect.getdoc(type(module)) or "").strip().splitlines()
    own_class = type(module).__module__ == code.__name__
    return spec_of(
        module,
        name=name,
        title=name.replace("_", " ").strip().capitalize(),
        description=summary[0] if summary and own_class else f"Your own program, {reference}",
    )


def _parts(reference: str) -> tuple[str, str | None]:
    source, colon, attribute = reference.rpartition(":")
    if not colon or attribute.endswith(".py") or "/" in attribute or "\\" in attribute:
        source, attribute = reference, ""  # no attribute; the colon, if any, is a Windows drive's
    if not source.endswith(".py") and not attribute:
        raise ProgramLoadError(
            f"--program {reference}: there is no shipped program of that name. Name your own as "
            "package.module:attribute or path/to/file.py."
        )
    return source, attribute or None


def _import_file(path: Path) -> ModuleType:
    path = path.expanduser().resolve()
    if not path.is_file():
        raise ProgramLoadError(f"--program: there is no file {path}.")
    if not path.stem.isidentifier():
        raise ProgramLoadError(
            f"--program: {path.name} must be named like a Python module, without “-” or spaces."
        )
    # Importable under its own name, so that its classes can be pickled into a version later.
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    known = sys.modules.get(path.stem)
    if known is not None and getattr(known, "__file__", None) != str(path):
        raise ProgramLoadError(
            f"--program: a module named {path.stem!r} is loaded already. Rename {path.name}."
        )
    return _import_module(path.stem)


def _import_module(name: str) -> ModuleType:
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except SyntaxError as error:
        raise ProgramLoadError(f"--program: {error.filename}, line {error.lineno}: {error.msg}.") from error
    except Exception as error:
        raise ProgramLoadError(
            f"--program: importing {name} failed with {type(error).__name__}: {error}"
        ) from error


def _attribute(code: ModuleType, attribute: str | None, reference: str) -> tuple[str, Any]:
    candidates = {name: value for name, value in vars(code).items() if _is_program(value, code)}
    if attribute is None:
        if "program" in candidates:
            return "program", candidates["program"]
        instances = {name: value for name, value in candidates.items() if isinstance(value, dspy.Module)}
        choice = instances or candidates
        if len(choice) == 1:
            return next(iter(choice.items()))
        if not choice:
            raise ProgramLoadError(f"--program {reference}: the file has no dspy.Module.")
        names = ", ".join(choice)
        raise ProgramLoadError(
            f"--program {reference}: say which one, as in {reference}:NAME. There are: {names}."
        )
    if not hasattr(code, attribute):
        names = ", ".join(candidates) or "none"
        raise ProgramLoadError(
            f"--program {reference}: {code.__name__} has no attribute {attribute!r}. Programs in it: {names}."
        )
    return attribute, getattr(code, attribute)


def _is_program(value: Any, code: ModuleType) -> bool:
    if isinstance(value, dspy.Module):
        return True
    return inspect.isclass(value) and issubclass(value, dspy.Module) and value.__module__ == code.__name__


def _instance(found: Any, reference: str) -> dspy.Module:
    module = found
    if not isinstance(found, dspy.Module) and callable(found):
        try:
            module = found()
        except Exception as error:
            raise ProgramLoadError(
                f"--program {reference}: making it failed with {type(error).__name__}: {error}"
            ) from error
    if not isinstance(module, dspy.Module):
        kind = type(module).__name__
        raise ProgramLoadError(f"--program {reference}: it is a {kind}, not a dspy.Module.")
    return module
