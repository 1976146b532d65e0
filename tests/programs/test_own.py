"""A user's own program: found or refused with the reason, and its inputs and outputs read off it."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import dspy
import pytest

from dspy_demo.errors import ProgramLoadError
from dspy_demo.programs.own import load_program, spec_of
from dspy_demo.programs.shipped import SHIPPED

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


BOTH = "\na = Summarise()\nb = Summarise()"


@pytest.mark.parametrize(
    ("ending", "attribute", "name"),
    [
        ("", "", "Summarise"),
        ("\nprogram = Summarise()", "", "mine_a"),
        ("\nother = Summarise()\nprogram = Summarise()", "", "mine_a"),
        ("\ndef make(): return Summarise()", ":make", "make"),
        (BOTH, ":b", "b"),
    ],
)
def test_an_instance_a_class_or_a_maker(write: Write, ending: str, attribute: str, name: str) -> None:
    spec = load_program(write(PROGRAM + ending) + attribute)
    assert (spec.name, spec.description, spec.chat_field) == (name, "Sums a text up.", "text")
    assert [field.name for field in spec.inputs] == ["text"]


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
        (PROGRAM + BOTH, "", "say which one"),
        ("import dspy\nprogram = dspy.Predict('n: int -> m: int')", "", "no text input"),
        (PROGRAM, "my-program", "named like a Python module"),
        (PROGRAM, "json", "Rename json.py"),
        (None, "nowhere/at_all.py", "no file"),
        (None, "no_such_name", "no shipped program"),
        (None, "no_such_package.inner:thing", "ModuleNotFoundError"),
    ],
)
def test_a_program_that_cannot_be_used_gives_the_reason(
    write: Write, source: str | None, attribute: str, reason: str
) -> None:
    if source is None:
        reference = attribute
    elif attribute.startswith(":") or not attribute:
        reference = write(source) + attribute
    else:
        reference = write(source, attribute)
    with pytest.raises(ProgramLoadError) as caught:
        load_program(reference)
    assert reason in caught.value.public_message


class Translate(dspy.Signature):
    """Translate."""

    language: Literal["French", "German"] = dspy.InputField()
    text: str = dspy.InputField(desc="what to translate")
    formal: bool = dspy.InputField(default=False)
    tries: int = dspy.InputField(default=1)
    weights: list[float] = dspy.InputField(default=[])
    history: dspy.History = dspy.InputField()
    translation: str = dspy.OutputField()
    score: float = dspy.OutputField()


@pytest.mark.parametrize(
    "module", [dspy.Predict(Translate), dspy.ChainOfThought(Translate), dspy.ReAct(Translate, tools=[])]
)
def test_a_signature_becomes_a_form(module: dspy.Module) -> None:
    spec = spec_of(module, name="translate")
    assert spec.chat_field == "text"
    assert spec.history_field == "history"
    assert spec.outputs == ("translation", "score")
    assert {field.name: (field.kind, field.required) for field in spec.inputs} == {
        "language": ("choice", True),
        "text": ("text", True),
        "formal": ("boolean", False),
        "tries": ("integer", False),
        "weights": ("json", False),
    }
    assert spec.form_fields[0].choices == ("French", "German")


class Free(dspy.Module):
    async def aforward(
        self, topic: str, tone: str | None = None, size: int = 3, extra: Any = None
    ) -> Any: ...


def test_forward_parameters_become_a_form() -> None:
    spec = spec_of(Free(), name="free")
    assert [(field.name, field.kind, field.required) for field in spec.inputs] == [
        ("topic", "text", True),
        ("tone", "text", False),
        ("size", "integer", False),
        ("extra", "text", False),
    ]
    assert spec.outputs == ()


class Asked(dspy.Signature):
    """Types that the modules below do not repeat."""

    question: str = dspy.InputField()
    history: dspy.History = dspy.InputField()
    picture: dspy.Image = dspy.InputField()
    tags: list[str] = dspy.InputField()
    tone: Literal["calm", "bold"] = dspy.InputField()
    reasoning: str = dspy.OutputField()
    reply: str = dspy.OutputField()


class Untyped(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.respond = dspy.Predict(Asked)

    def forward(self, question, picture, tags, tone="calm", history=None): ...  # type: ignore[no-untyped-def]


class Typed(Untyped):
    def forward(  # type: ignore[no-untyped-def, override]
        self, question: str, picture, tags: Any, tone="calm", history: dspy.History | None = None
    ): ...


@pytest.mark.parametrize("kind", [Untyped, Typed])
def test_types_that_a_module_leaves_out_are_those_of_its_predictors(kind: type[Untyped]) -> None:
    spec = spec_of(kind(), name="untyped")
    assert spec.history_field == "history"
    assert spec.answer_field == "reply"
    assert {field.name: (field.annotation, field.required) for field in spec.inputs} == {
        "question": (str, True),
        "picture": (dspy.Image, True),
        "tags": (list[str], True),
        "tone": (Literal["calm", "bold"], False),
    }
    assert spec.inputs[-1].choices == ("calm", "bold")


@pytest.mark.parametrize("kind", [dspy.BestOfN, dspy.Refine])
def test_attempts_at_a_program_have_its_inputs_and_outputs(kind: Any) -> None:
    module = dspy.ChainOfThought("question, history: dspy.History -> title, score: float")
    spec = spec_of(kind(module=module, N=2, reward_fn=lambda *_: 1.0, threshold=1.0), name="attempts")
    assert spec.history_field == "history"
    assert spec.outputs == ("title", "score")


class Wrapped(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.step = dspy.Predict("question, context -> answer")

    def forward(self, **fields: Any) -> Any: ...


def test_keyword_arguments_fall_back_to_the_first_predictor() -> None:
    assert [field.name for field in spec_of(Wrapped(), name="w").inputs] == ["question", "context"]


class Nothing(dspy.Module):
    def forward(self) -> Any: ...


def test_a_program_without_a_text_input_cannot_chat() -> None:
    with pytest.raises(ProgramLoadError, match="no text input"):
        spec_of(Nothing(), name="nothing")


@pytest.mark.parametrize("spec", SHIPPED, ids=lambda spec: spec.name)
def test_shipped_specs_say_what_their_programs_are(spec: Any) -> None:
    found = spec_of(spec.build(), name=spec.name)
    assert found.chat_field == spec.chat_field
    assert {field.name for field in found.inputs} == {field.name for field in spec.inputs}
    assert found.history_field == spec.history_field
    assert found.outputs in {spec.outputs, ()}
