"""The demo engine through DSPy itself: every adapter, types, tools, streams, saving, stopping."""

from __future__ import annotations

import pickle
import time
from collections.abc import Iterator
from typing import Any, Literal, Optional

import dspy
import pydantic
import pytest
from dspy import lm15

from dspy_demo.lm.demo_engine import PREDICTORS_ONLY, UNKNOWN, DemoEngine, answer_to, demo_lm
from dspy_demo.programs.tools import calculator, current_time

ADAPTERS = {"chat": dspy.ChatAdapter, "json": dspy.JSONAdapter, "xml": dspy.XMLAdapter}


class Part(pydantic.BaseModel):
    name: str
    size: int
    parts: list[Part]


class Everything(dspy.Signature):
    """Answer in every form."""

    question: str = dspy.InputField(desc="what is asked")
    history: dspy.History = dspy.InputField()
    answer: str = dspy.OutputField(desc="short")
    number: int = dspy.OutputField()
    exact: Optional[float] = dspy.OutputField()  # noqa: UP045 - as users write it
    true: bool = dspy.OutputField()
    kind: Literal["history", "arithmetic", "a; b"] = dspy.OutputField()
    size: Literal[1, 2] = dspy.OutputField()
    tags: list[str] = dspy.OutputField()
    numbers: list[int] = dspy.OutputField()
    pair: tuple[int, str] = dspy.OutputField()
    more: dict[str, Any] = dspy.OutputField()
    part: Part = dspy.OutputField()


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("What is 15% of 240, plus 3^4?", "15% of 240, plus 3^4 = 117."),
        ("what's 7 squared minus 9", "7 squared minus 9 = 40."),
        ("Please calculate 1,234 × 5,678.", "1,234 × 5,678 = 7006652."),
        ("(what is 12 x 4)", "12 x 4 = 48."),
        ("<b>2 / 3</b>", "2 / 3 ≈ 0.666666666667."),
        ("What is 1/0?", "Cannot calculate 1/0: division by zero has no result."),
        ("What time is it in Springfield?", "There is no time zone named 'Springfield'."),
        *(
            (text, "")
            for text in ("Write a poem", "", "I have 2 of 3", "Days from 2024-01-01 to 2024-12-25?")
        ),
    ],
)
def test_what_it_knows(question: str, answer: str) -> None:
    found = answer_to(question)
    assert (found.text if found else "") == answer


def test_it_tells_the_time() -> None:
    for question, zone in (("what time is it in New York", "America/New_York"), ("What is the date?", "UTC")):
        found = answer_to(question)
        assert found is not None and f"{time.gmtime().tm_year}-" in found.text
        assert found.text.endswith(f" in {zone}.")


@pytest.fixture(params=ADAPTERS)
def context(request: pytest.FixtureRequest) -> Iterator[None]:
    with dspy.context(lm=demo_lm(tokens_per_s=0), adapter=ADAPTERS[request.param]()):
        yield


@pytest.mark.usefixtures("context")
class TestEveryAdapter:
    def test_every_type(self) -> None:
        history = dspy.History(messages=[{"question": "What is 12 * 4?", "answer": "12 * 4 = 48."}])
        result = dspy.ChainOfThought(Everything)(question="What is 7 * 6?", history=history)
        assert result.reasoning == "This is arithmetic. First, 7 * 6 = 42."
        assert (result.answer, result.number, result.exact) == ("7 * 6 = 42.", 42, 42.0)
        assert (result.true, result.kind, result.size) == (False, "history", 1)
        assert (result.numbers, result.pair, result.more) == ([42], (42, "7 * 6 = 42."), {})
        assert isinstance(result.part, Part)

    @pytest.mark.parametrize("question", ["[[ ## answer ## ]]", "</answer> & <b>", '{"a": 1}'])
    def test_an_honest_sentence_for_all_else(self, question: str) -> None:
        result = dspy.ChainOfThought("question -> answer, number: int")(question=question)
        assert (result.answer, result.number) == (UNKNOWN, 0)

    def test_a_choice_is_as_in_the_most_similar_example(self) -> None:
        program = dspy.Predict("text, mark: int -> label: Literal['sad', 'happy']")
        program.demos = [
            dspy.Example(text="so glad today", mark=1, label="happy"),
            dspy.Example(text="rain again and tears", mark=2, label="sad"),
        ]
        labels = [program(text=text, mark=3).label for text in ("glad to be here", "tears in the rain")]
        assert labels == ["happy", "sad"]

    @pytest.mark.parametrize(
        ("question", "calls"),
        [
            ("What is (2 + 3) * 4?", ["calculator", "finish"]),
            ("What time is it in Tokyo?", ["current_time", "finish"]),
            ("Write a poem", ["finish"]),
        ],
    )
    def test_react_calls_the_tool_that_fits_and_finishes(self, question: str, calls: list[str]) -> None:
        agent = dspy.ReAct("question, history: dspy.History -> answer", tools=[current_time, calculator])
        result = agent(question=question, history=dspy.History(messages=[]))
        names = [value for name, value in result.trajectory.items() if name.startswith("tool_name")]
        assert names == calls
        assert (result.answer == UNKNOWN) == (calls == ["finish"])

    async def test_streams_the_same_as_it_answers(self) -> None:
        program = dspy.ChainOfThought("question -> answer")
        chunks, final = [], None
        async for item in dspy.streamify(program, is_async_program=True)(question="What is 2 + 3 * 4?"):
            if isinstance(item, dspy.Prediction):
                final = item
            elif getattr(item, "choices", None):
                chunks.append(item.choices[0].delta["content"] or "")
        assert final is not None
        assert final.toDict() == program(question="What is 2 + 3 * 4?").toDict()
        assert len(chunks) > 20 and "First, 3 * 4 = 12. Then 2 + 12 = 14." in "".join(chunks)


def test_who_is_no_predictor_is_told_so() -> None:
    assert demo_lm()("What is 2 + 2?") == [PREDICTORS_ONLY]


def test_max_tokens_and_stop_sequences_are_kept_and_the_tokens_counted() -> None:
    def reply(**config: Any) -> Any:
        asked = lm15.Request(
            model="x", messages=(lm15.Message.user("What is 2 + 2?"),), config=lm15.Config(**config)
        )
        return DemoEngine(0).complete(asked)

    response = reply(max_tokens=3)
    assert (response.message.text, response.finish_reason) == ("The demo engine", "length")
    assert (response.usage.input_tokens, response.usage.output_tokens) == (5, 3)
    assert reply(stop=(" engine",)).message.text == "The demo"


def test_it_survives_pickle_and_saving() -> None:
    lm = demo_lm(tokens_per_s=0, max_tokens=500)
    for loaded in (
        dspy.BaseLM.load_state(lm.dump_state(), allow_custom_lm_class=True),
        pickle.loads(pickle.dumps(lm)),
    ):
        with dspy.context(lm=loaded):
            assert dspy.Predict("question -> answer")(question="What is 2 + 2?").answer == "2 + 2 = 4."
