"""A user's own program, for the tests of the backends."""

from __future__ import annotations

import itertools
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dspy_demo.programs.own import load_program
from dspy_demo.programs.spec import ProgramSpec

_numbers = itertools.count()


@pytest.fixture
def own_program(tmp_path: Path) -> Iterator[Callable[[str], ProgramSpec]]:
    """Write source into a file of its own and load the program in it."""
    path_before, modules_before = list(sys.path), set(sys.modules)

    def load(source: str) -> ProgramSpec:
        file = tmp_path / f"own_program_{next(_numbers)}.py"
        file.write_text(textwrap.dedent(source))
        return load_program(str(file))

    yield load
    sys.path[:] = path_before
    for name in set(sys.modules) - modules_before:
        if name.startswith("own_program_"):
            del sys.modules[name]
