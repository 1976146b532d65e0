"""A user's own program: found or refused with the reason, and its inputs and outputs read off it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import dspy
import pytest

from dspy_demo.errors import ProgramLoadError
from dspy_demo.programs.own import load_program, spec_of

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

BOTH = "\na = Summarise()\nb = Summarise()"


@pytest.mark.parametrize(
    ("ending", "reference", "name"),
    [
        ("", "mine_a.py", "Summarise"),
        ("\nother = Summarise()\nprogram = Summarise()", "mine_a.py", "mine_a"),
        ("\ndef make(): return Summarise()", "mine_a.py:make", "make"),
        (BOTH, "mine_a:b", "b"),
    ],
)
def test_an_instance_a_class_or_a_maker(tmp_path, monkeypatch, ending, reference, name):
    monkeypatch.chdir(tmp_path)
    Path("mine_a.py").write_text(PROGRAM + ending)
    spec = load_program(reference)
    assert (spec.name, spec.description, spec.chat_field) == (name, "Sums a text up.", "text")
    assert [field.name for field in spec.inputs] == ["text"]


@pytest.mark.parametrize(
    ("source", "reference", "reason"),
    [
        ("x = ", "mine.py", "line 1"),
        ("import no_such_package", "mine.py", "ModuleNotFoundError"),
        ("x = 1", "mine.py", "No dspy.Module"),
        (PROGRAM, "mine.py:Missing", "There are: Summarise"),
        (PROGRAM + "\nx = 3", "mine.py:x", "it is a int"),
        (PROGRAM + "\ndef broken(): raise ValueError('boom')", "mine.py:broken", "ValueError: boom"),
        (PROGRAM + BOTH, "mine.py", "Say which one"),
        ("import dspy\nprogram = dspy.Predict('n: int -> m: int')", "mine.py", "no text input"),
        (PROGRAM, "my-program.py", "named like a Python module"),
        (PROGRAM, "json.py", "Rename json.py"),
        ("", "no_such_name", "no shipped program"),
        ("", "no_such_package.inner:thing", "ModuleNotFoundError"),
    ],
)
def test_a_program_that_cannot_be_used_gives_the_reason(tmp_path, monkeypatch, source, reference, reason):
    monkeypatch.chdir(tmp_path)
    Path(reference.partition(":")[0]).write_text(source)
    with pytest.raises(ProgramLoadError) as caught:
        load_program(reference)
    assert reason in caught.value.public_message


class Asked(dspy.Signature):
    """Ask."""

    tone: Literal["calm", "bold"] = dspy.InputField()
    question: str = dspy.InputField(desc="what to ask")
    formal: bool = dspy.InputField(default=False)
    tries: int = dspy.InputField(default=1)
    weights: list[float] = dspy.InputField(default=[])
    picture: dspy.Image = dspy.InputField()
    history: dspy.History = dspy.InputField()
    reasoning: str = dspy.OutputField()
    reply: str = dspy.OutputField()
    score: float = dspy.OutputField()


class OfHints(dspy.Module):
    async def aforward(self, topic: str, tone: str | None = None, size: int = 3, extra: Any = None): ...


class Untyped(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.respond = dspy.Predict(Asked)

    def forward(self, question, picture, weights, tone="calm", history=None): ...


class Typed(Untyped):
    def forward(self, question: str, picture, weights: Any, tone="calm", history: dspy.History = None): ...


class Wrapped(Untyped):
    def forward(self, **fields): ...


BEST = dspy.BestOfN(module=dspy.Predict(Asked), N=2, reward_fn=lambda *_: 1.0, threshold=1.0)
OF_ASKED = "tone choice *, question text *, formal boolean, tries integer, weights json, picture image *"
OF_UNTYPED = "question text *, picture image *, weights json *, tone choice"


@pytest.mark.parametrize(
    ("module", "fields", "outputs", "answer_field"),
    [
        (dspy.Predict(Asked), OF_ASKED, ("reply", "score"), "reply"),
        (dspy.ReAct(Asked, tools=[]), OF_ASKED, ("reply", "score"), "reply"),
        (BEST, OF_ASKED, ("reply", "score"), "reply"),
        (OfHints(), "topic text *, tone text, size integer, extra text", (), None),
        (Untyped(), OF_UNTYPED, (), "reply"),
        (Typed(), OF_UNTYPED, (), "reply"),
        (Wrapped(), OF_ASKED, (), "reply"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_program_becomes_a_form(module, fields, outputs, answer_field):
    spec = spec_of(module, name="mine")
    found = [[field.name, field.kind, *("*" if field.required else "")] for field in spec.inputs]
    assert found == [row.split() for row in fields.split(",")]
    assert (spec.outputs, spec.answer_field) == (outputs, answer_field)
    assert spec.history_field == (None if isinstance(module, OfHints) else "history")
    choices = {field.name: field.choices for field in spec.inputs if field.kind == "choice"}
    assert choices in ({}, {"tone": ("calm", "bold")})
