"""From what a person sent to the arguments of a program; which images a turn may hold, and from whom."""

from __future__ import annotations

from typing import Literal

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


@pytest.mark.parametrize(
    ("annotation", "kind", "raw", "value"),
    [
        (int, "integer", "42", 42),
        (float, "number", "1.5", 1.5),
        (bool, "boolean", "true", True),
        (list[int], "json", "[1, 2]", [1, 2]),
        (Point, "json", '{"x": 1, "y": 2}', Point(x=1, y=2)),
        (int, "integer", None, 7),
        (Literal["a"], "choice", "c", InvalidInput),
        (list[int], "json", "[1, ", InvalidInput),
        (Point, "json", '{"x": "left"}', InvalidInput),
    ],
)
def test_values_get_their_types_and_a_wrong_one_is_told(annotation, kind, raw, value):
    field = InputField("value", kind, annotation=annotation, required=False, default=7)
    if value is InvalidInput:
        with pytest.raises(InvalidInput, match="“value”"):
            read_value(field, raw)
    else:
        assert read_value(field, raw) == value


class Echo(dspy.Module):
    def forward(self, question: str, history: dspy.History) -> dspy.Prediction:
        return dspy.Prediction(answer=f"{question} after {len(history.messages)}")


SYSTEM, HI = {"role": "system", "content": "x"}, {"role": "user", "content": "hi"}
PARTS = {"role": "user", "content": [{"type": "text", "text": "hi"}]}


async def test_a_chat_program_takes_messages_or_fields_and_refuses_what_is_no_chat():
    chat = ChatProgram(Echo(), chat_field="question", history_field="history", answer_field="answer")
    earlier = [HI, {"role": "assistant", "content": "b"}]
    for messages, answer in (([SYSTEM, HI], "hi after 0"), ([*earlier, PARTS], "hi after 1")):
        assert chat(messages).answer == answer
        assert (await chat.acall(messages=messages)).answer == answer
    assert chat(question="hi").answer == "hi after 0"
    for message in ({"role": "robot", "content": "x"}, {"role": "user", "content": None}, {"role": "user"}):
        with pytest.raises(InvalidInput):
            chat_messages([message])
    # Also where no service checks: `mlflow models serve` calls the logged program itself.
    with pytest.raises(ValueError, match="empty"):
        await chat.acall([{"role": "user", "content": " "}])


OWNER = Visitor("owner", "o")
DATA = "data:image/png;base64,"


@pytest.mark.parametrize(
    ("image", "who", "code"),
    [
        (DATA + "AAAA", GUEST, ""),
        ({"url": DATA + "AAAA"}, OWNER, ""),
        (DATA + "A" * 120_000, GUEST, ""),  # beside the limit on text
        ("http://127.0.0.1/secret.png", OWNER, ""),
        ("http://127.0.0.1/secret.png", GUEST, "invalid_input"),
        ("https://user:password@public.example/cat.png", OWNER, "invalid_input"),
        ("/etc/passwd", OWNER, "invalid_input"),
        ("data:text/html;base64,AAAA", OWNER, "invalid_input"),
        ({"url": DATA + "AAAA", "download": True}, OWNER, "invalid_input"),
        (DATA + "A" * 150_000, OWNER, "input_too_long"),
        ("", OWNER, "invalid_input"),
    ],
)
async def test_who_may_send_which_image(data_dir, image, who, code):
    programs = ProgramRegistry([spec_of(program, name="describe")])
    async with house(settings_for(data_dir), programs=programs) as home:
        inputs = {"question": "What is it?", "image": image}
        try:
            home.service.check(TurnRequest(LocalTarget("describe", home.choice), inputs, visitor=who))
            refused = ""
        except DemoError as error:
            refused = error.code
    assert refused == code
