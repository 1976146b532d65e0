"""Imports Gradio in three fifths of its time: without the check of its type stubs."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType

MODULE, CHECK = "gradio.component_meta", "create_or_modify_pyi"


def import_gradio() -> None:
    """Import Gradio; the first import of a process should be this one.

    For each class of a component Gradio (6.31) parses its source, renders its ``.pyi`` for editors and
    compares it with the file, which its wheel contains already: 2.1 of the 5.2 s of ``import gradio``, at
    each start. No setting leaves that out, and the classes are made while the package is imported, so the
    function has to go before that: in the moment after its own module was read.
    """
    if MODULE not in sys.modules:
        sys.meta_path.insert(0, _Finder())
    importlib.import_module("gradio")


class _Finder(MetaPathFinder):
    """Finds one module, once."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != MODULE:
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


class _Loader(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        if hasattr(module, CHECK):
            setattr(module, CHECK, _unchecked)


def _unchecked(*_: object) -> None:
    """The stubs stay as they were installed."""
