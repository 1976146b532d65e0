"""Reading a program's inputs and outputs off the module."""

from __future__ import annotations

from typing import Any, Literal

import dspy
import pytest

from dspy_demo.errors import ProgramLoadError
from dspy_demo.programs.own import spec_of
from dspy_demo.programs.shipped import SHIPPED


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
