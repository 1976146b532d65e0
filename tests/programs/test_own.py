"""A user's own program: found or refused, its form read off it; what a person sends to it, also images."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

import dspy
import pydantic
import pytest

from dspy_demo.errors import DemoError, InvalidInput, ProgramLoadError
from dspy_demo.events import GUEST, LocalTarget, TurnRequest, Visitor
from dspy_demo.programs.chat_program import ChatProgram
from dspy_demo.programs.inputs import chat_messages, read_value
from dspy_demo.programs.own import load_program, spec_of
from dspy_demo.programs.registry import ProgramRegistry
from dspy_demo.programs.spec import InputField
from tests.cases.describes_images import program
from tests.services import house, settings_for

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
    def __init__(self):
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


class Point(pydantic.BaseModel):
    x: int
    y: int


def test_values_get_their_types_and_a_wrong_one_is_told():
    def read(annotation, kind, raw):
        return read_value(InputField("value", kind, annotation=annotation, required=False, default=7), raw)

    assert (read(int, "integer", "42"), read(int, "integer", None)) == (42, 7)
    assert (read(float, "number", "1.5"), read(bool, "boolean", "true")) == (1.5, True)
    assert read(list[int], "json", "[1, 2]") == [1, 2]
    assert read(Point, "json", '{"x": 1, "y": 2}') == Point(x=1, y=2)
    for annotation, kind, raw in (
        (Literal["a"], "choice", "c"),
        (list[int], "json", "[1, "),
        (Point, "json", '{"x": "left"}'),
    ):
        with pytest.raises(InvalidInput, match="“value”"):
            read(annotation, kind, raw)


class Echo(dspy.Module):
    def forward(self, question, history):
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
IMAGES = [
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
]


async def test_who_may_send_which_image(data_dir):
    programs = ProgramRegistry([spec_of(program, name="describe")])
    async with house(settings_for(data_dir), programs=programs) as home:
        target = LocalTarget("describe", home.choice)
        for image, who, code in IMAGES:
            request = TurnRequest(target, {"question": "What is it?", "image": image}, visitor=who)
            with pytest.raises(DemoError) if code else nullcontext() as caught:
                home.service.check(request)
            assert not code or caught.value.code == code, image
