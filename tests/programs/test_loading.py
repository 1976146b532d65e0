"""A user's own program: found, or refused with the reason."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dspy_demo.errors import ProgramLoadError
from dspy_demo.programs.own import load_program

PROGRAM = """
import dspy

class Summarise(dspy.Module):
    '''Sums a text up.'''
    def __init__(self):
        super().__init__()
        self.predict = dspy.Predict("text -> summary")
    def forward(self, text: str):
        return self.predict(text=text)
"""

Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path) -> Iterator[Write]:
    """Write a module and give its path; forget everything that was imported afterwards."""
    path_before, modules_before = list(sys.path), set(sys.modules)

    def file(source: str, name: str = "mine_a") -> str:
        path = tmp_path / f"{name}.py"
        path.write_text(textwrap.dedent(source))
        return str(path)

    yield file
    sys.path[:] = path_before
    for name in {name for name in set(sys.modules) - modules_before if name.startswith("mine_")}:
        del sys.modules[name]


def test_a_file_with_one_class(write: Write) -> None:
    spec = load_program(write(PROGRAM))
    assert (spec.name, spec.title, spec.description) == ("Summarise", "Summarise", "Sums a text up.")
    assert [field.name for field in spec.inputs] == ["text"]
    assert spec.chat_field == "text"


@pytest.mark.parametrize(
    "ending",
    ["program = Summarise()", "other = Summarise()\nprogram = Summarise()", "def make(): return Summarise()"],
)
def test_an_instance_a_class_or_a_maker(write: Write, ending: str) -> None:
    reference = write(PROGRAM + "\n" + ending)
    name = ":make" if "make" in ending else ""
    assert load_program(reference + name).build() is not None


def test_a_module_and_attribute(write: Write, tmp_path: Path) -> None:
    write(PROGRAM, "mine_b")
    sys.path.insert(0, str(tmp_path))
    assert load_program("mine_b:Summarise").chat_field == "text"


@pytest.mark.parametrize(
    ("source", "attribute", "reason"),
    [
        ("x = ", "", "line 1"),
        ("import no_such_package", "", "ModuleNotFoundError"),
        ("x = 1", "", "no dspy.Module"),
        (PROGRAM, ":Missing", "Programs in it: Summarise"),
        (PROGRAM + "\nx = 3", ":x", "it is a int"),
        (PROGRAM + "\ndef broken(): raise ValueError('boom')", ":broken", "ValueError: boom"),
        (PROGRAM + "\na = Summarise()\nb = Summarise()", "", "say which one"),
        ("import dspy\nprogram = dspy.Predict('n: int -> m: int')", "", "no text input"),
    ],
)
def test_a_program_that_cannot_be_used_gives_the_reason(
    write: Write, source: str, attribute: str, reason: str
) -> None:
    reference = write(source)
    with pytest.raises(ProgramLoadError) as caught:
        load_program(reference + attribute)
    assert reason in caught.value.public_message


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        ("nowhere/at_all.py", "no file"),
        ("no_such_name", "no shipped program"),
        ("no_such_package.inner:thing", "ModuleNotFoundError"),
    ],
)
def test_a_reference_to_nothing_gives_the_reason(reference: str, reason: str) -> None:
    with pytest.raises(ProgramLoadError, match=reason):
        load_program(reference)


def test_a_file_whose_name_is_no_module_name(write: Write) -> None:
    with pytest.raises(ProgramLoadError, match="named like a Python module"):
        load_program(write(PROGRAM, "my-program"))


def test_a_file_named_like_a_loaded_module(write: Write) -> None:
    with pytest.raises(ProgramLoadError, match=r"Rename json\.py"):
        load_program(write(PROGRAM, "json"))
