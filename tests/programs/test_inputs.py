"""From what a person sent to the arguments of a program; which images a turn may hold, and from whom."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import dspy
import pydantic
import pytest

from dspy_demo.errors import DemoError, InvalidInput
from dspy_demo.events import GUEST, LocalTarget, TurnRequest, Visitor
from dspy_demo.programs.chat_program import ChatProgram
from dspy_demo.programs.inputs import chat_messages, read_value
from dspy_demo.programs.own import spec_of
from dspy_demo.programs.registry import ProgramRegistry
from dspy_demo.programs.spec import InputField
from tests.cases.describes_images import program
from tests.services import house, settings_for


class Point(pydantic.BaseModel):
    x: int
    y: int


def field(annotation: Any, kind: Any = "json", **values: Any) -> InputField:
    return InputField("value", kind, annotation=annotation, **values)


@pytest.mark.parametrize(
    ("spec", "raw", "value"),
    [
        (field(int, "integer"), "42", 42),
        (field(float, "number"), "1.5", 1.5),
        (field(bool, "boolean"), "true", True),
        (field(list[int]), "[1, 2]", [1, 2]),
        (field(Point), '{"x": 1, "y": 2}', Point(x=1, y=2)),
        (field(int, "integer", required=False, default=7), None, 7),
        (field(Literal["a"], "choice"), "c", InvalidInput),
        (field(list[int]), "[1, ", InvalidInput),
        (field(Point), '{"x": "left"}', InvalidInput),
    ],
)
def test_values_get_their_types_and_a_wrong_one_is_told(spec: InputField, raw: Any, value: Any) -> None:
    if value is not InvalidInput:
        assert read_value(spec, raw) == value
        return
    with pytest.raises(InvalidInput) as caught:
        read_value(spec, raw)
    assert "“value”" in caught.value.public_message


# Messages


class Echo(dspy.Module):
    def forward(self, question: str, history: dspy.History) -> dspy.Prediction:
        return dspy.Prediction(answer=f"{question} after {len(history.messages)}")


CHAT = ChatProgram(Echo(), chat_field="question", history_field="history", answer_field="answer")
SYSTEM, HI = {"role": "system", "content": "x"}, {"role": "user", "content": "hi"}
PARTS = {"role": "user", "content": [{"type": "text", "text": "hi"}]}


@pytest.mark.parametrize(
    ("positional", "named", "answer"),
    [
        ([], {"messages": [SYSTEM, HI]}, "hi after 0"),
        ([], {"question": "hi"}, "hi after 0"),
        ([[HI, {"role": "assistant", "content": "b"}, PARTS]], {}, "hi after 1"),
    ],
)
async def test_a_chat_program_takes_messages_or_fields(positional: Any, named: Any, answer: str) -> None:
    assert CHAT(*positional, **named).answer == answer
    assert (await CHAT.acall(*positional, **named)).answer == answer


async def test_messages_that_are_not_chat_are_refused() -> None:
    for message in ({"role": "robot", "content": "x"}, {"role": "user", "content": None}, {"role": "user"}):
        with pytest.raises(InvalidInput):
            chat_messages([message])
    # Also where no service checks: `mlflow models serve` calls the logged program itself.
    with pytest.raises(ValueError, match="empty"):
        await CHAT.acall([{"role": "user", "content": " "}])


# Images

OWNER = Visitor("owner", "o")
DATA = "data:image/png;base64,"
DESCRIBE = spec_of(program, name="describe")


@pytest.mark.parametrize(
    ("image", "who", "code"),
    [
        (DATA + "AAAA", GUEST, ""),
        ({"url": DATA + "AAAA"}, OWNER, ""),
        (DATA + "A" * 120_000, GUEST, ""),  # beside the limit on text
        ("http://127.0.0.1/secret.png", OWNER, ""),
        ("http://127.0.0.1/secret.png", GUEST, "invalid_input"),
        ("https://public.example/cat.png", GUEST, "invalid_input"),
        ("https://user:password@public.example/cat.png", OWNER, "invalid_input"),
        ("/etc/passwd", OWNER, "invalid_input"),
        ("data:text/html;base64,AAAA", OWNER, "invalid_input"),
        ({"url": DATA + "AAAA", "download": True}, OWNER, "invalid_input"),
        (DATA + "A" * 150_000, OWNER, "input_too_long"),
        ("", OWNER, "invalid_input"),
    ],
)
async def test_who_may_send_which_image(data_dir: Path, image: Any, who: Visitor, code: str) -> None:
    async with house(settings_for(data_dir), programs=ProgramRegistry([DESCRIBE])) as home:
        target = LocalTarget("describe", home.choice)
        request = TurnRequest(target, {"question": "What is it?", "image": image}, visitor=who)
        try:
            home.service.check(request)
            refused = ""
        except DemoError as error:
            refused = error.code
    assert refused == code
