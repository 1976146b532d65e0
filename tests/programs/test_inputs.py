"""From what a person sent to the arguments of a program."""

from __future__ import annotations

from typing import Any, Literal

import dspy
import pydantic
import pytest

from dspy_demo.errors import InvalidInput
from dspy_demo.programs.chat_program import ChatProgram
from dspy_demo.programs.inputs import chat_messages, program_inputs, read_value
from dspy_demo.programs.shipped import SHIPPED
from dspy_demo.programs.spec import InputField
from tests.services import conversation


class Point(pydantic.BaseModel):
    x: int
    y: int


def field(annotation: Any, kind: Any = "json", **values: Any) -> InputField:
    return InputField("value", kind, annotation=annotation, **values)


@pytest.mark.parametrize(
    ("spec", "raw", "value"),
    [
        (field(str, "text"), "hi", "hi"),
        (field(int, "integer"), "42", 42),
        (field(int, "integer"), 42.0, 42),
        (field(float, "number"), "1.5", 1.5),
        (field(bool, "boolean"), "true", True),
        (field(Literal["a", "b"], "choice"), "b", "b"),
        (field(list[int]), "[1, 2]", [1, 2]),
        (field(list[int]), [1, 2], [1, 2]),
        (field(Point), '{"x": 1, "y": 2}', Point(x=1, y=2)),
        (field(int | None, "integer", required=False), "", None),
        (field(int, "integer", required=False, default=7), None, 7),
    ],
)
def test_values_get_their_types(spec: InputField, raw: Any, value: Any) -> None:
    assert read_value(spec, raw) == value


@pytest.mark.parametrize(
    ("spec", "raw"),
    [
        (field(int, "integer"), "four"),
        (field(Literal["a"], "choice"), "c"),
        (field(list[int]), "[1, "),
        (field(Point), '{"x": "left"}'),
    ],
)
def test_a_wrong_value_is_told_without_repeating_it(spec: InputField, raw: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_value(spec, raw)
    assert "“value”" in caught.value.public_message


def test_history_uses_the_programs_own_field_names() -> None:
    spec = SHIPPED[0]
    arguments = program_inputs(spec, {"question": "and now?"}, conversation("a?", "b.", "c?"))
    assert arguments["history"].messages == [{"question": "a?", "answer": "b."}]


class Echo(dspy.Module):
    def forward(self, question: str, history: dspy.History) -> dspy.Prediction:
        return dspy.Prediction(answer=f"{question} after {len(history.messages)}")


def chat_program() -> ChatProgram:
    return ChatProgram(Echo(), chat_field="question", history_field="history", answer_field="answer")


async def test_a_question_without_words_is_refused_before_a_model_is_asked() -> None:
    """Also where no service checks: `mlflow models serve` calls the logged program itself."""
    with pytest.raises(ValueError, match="empty"):
        await chat_program().acall([{"role": "user", "content": " "}])


SYSTEM, HI = {"role": "system", "content": "x"}, {"role": "user", "content": "hi"}
PARTS = {"role": "user", "content": [{"type": "text", "text": "hi"}]}


@pytest.mark.parametrize(
    ("positional", "named", "answer"),
    [
        ([[HI]], {}, "hi after 0"),
        ([], {"messages": [SYSTEM, HI]}, "hi after 0"),
        ([], {"question": "hi"}, "hi after 0"),
        ([[HI, {"role": "assistant", "content": "b"}, PARTS]], {}, "hi after 1"),
    ],
)
async def test_a_chat_program_takes_messages_or_fields(positional: Any, named: Any, answer: str) -> None:
    assert chat_program()(*positional, **named).answer == answer
    assert (await chat_program().acall(*positional, **named)).answer == answer


@pytest.mark.parametrize(
    "messages",
    [[{"role": "robot", "content": "x"}], [{"role": "user", "content": None}], [{"role": "user"}]],
)
def test_messages_that_are_not_chat_are_refused(messages: Any) -> None:
    with pytest.raises(InvalidInput):
        chat_messages(messages)
