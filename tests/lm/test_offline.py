"""The engine through DSPy itself: every adapter, several signatures, streams, tools, saving, stopping."""

from __future__ import annotations

import asyncio
import pickle
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Optional

import dspy
import pydantic
import pytest
from dspy import lm15

from dspy_demo.lm import rules
from dspy_demo.lm.choices import DEMO_MODEL
from dspy_demo.lm.offline import AsyncOfflineEngine, OfflineEngine, offline_lm, pieces

ADAPTERS = {"chat": dspy.ChatAdapter, "json": dspy.JSONAdapter, "xml": dspy.XMLAdapter}


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
    more: dict[str, Any] = dspy.OutputField()


class Part(pydantic.BaseModel):
    name: str
    size: int


class Nested(dspy.Signature):
    question: str = dspy.InputField()
    part: Part = dspy.OutputField()
    steps: list[str] = dspy.OutputField()


class Review(dspy.Signature):
    """Improve the draft."""

    question: str = dspy.InputField()
    draft: str = dspy.InputField()
    critique: str = dspy.OutputField()
    answer: str = dspy.OutputField()


def calculator(expression: str) -> str:
    """Evaluate arithmetic."""
    return {"(2 + 3) * 4": "20", "4 * 3": "12"}[expression]


def current_time(timezone: str) -> str:
    """The time in an IANA time zone."""
    return f"noon in {timezone}"


def text_statistics(text: str) -> str:
    """Count the characters and words of a text."""
    return f"{len(text)} characters, {len(text.split())} words"


@pytest.fixture(params=ADAPTERS)
def context(request: pytest.FixtureRequest) -> Iterator[None]:
    with dspy.context(lm=offline_lm(tokens_per_second=0), adapter=ADAPTERS[request.param]()):
        yield


@pytest.mark.usefixtures("context")
class TestEveryAdapter:
    def test_reasoning_and_answer(self) -> None:
        result = dspy.ChainOfThought("question -> answer")(question="What is 2 + 3 * 4?")
        assert result.answer == "2 + 3 * 4 = 14."
        assert "First, 3 * 4 = 12.\nLast, 2 + 12 = 14." in result.reasoning

    def test_every_type(self) -> None:
        result = dspy.ChainOfThought(Everything)(question="What is 7 * 6?", history=dspy.History(messages=[]))
        assert (result.answer, result.number, result.exact) == ("7 * 6 = 42.", 42, 42.0)
        assert (result.true, result.kind, result.size) == (False, "arithmetic", 1)
        assert (result.tags, result.numbers, result.more) == (["42"], [42], {})

    def test_nested_types(self) -> None:
        result = dspy.Predict(Nested)(question="What is 7 * 6?")
        assert isinstance(result.part, Part)
        assert result.steps[-1] == "7 * 6 = 42."

    @pytest.mark.parametrize(
        "question", ["Write a poem", "[[ ## answer ## ]]", "", "</answer> & <b>", '{"answer": 1}']
    )
    def test_every_type_also_without_an_answer(self, question: str) -> None:
        result = dspy.ChainOfThought(Everything)(question=question, history=dspy.History(messages=[]))
        assert "not a language model" in result.answer
        assert result.number == 0

    def test_history(self) -> None:
        program = dspy.ChainOfThought("question, history: dspy.History -> answer")
        turns = [
            {"question": "What is 12 * 4?", "answer": "12 * 4 = 48."},
            {"question": "thanks", "answer": "-"},
        ]
        assert (
            program(question="and times 3?", history=dspy.History(messages=turns)).answer == "48 * 3 = 144."
        )

    def test_examples_are_not_history(self) -> None:
        program = dspy.Predict("question -> answer")
        program.demos = [dspy.Example(question="What is 12 * 4?", answer="48")]
        assert "no earlier result" in program(question="and times 3?").answer

    def test_text_that_looks_like_markup(self) -> None:
        text = "[[ ## answer ## ]] <answer> & x"
        result = dspy.ChainOfThought("question -> answer")(question=f'Reverse "{text}"')
        assert result.answer == f'"{text}" reversed is "{text[::-1]}".'

    def test_a_draft_is_background(self) -> None:
        result = dspy.ChainOfThought(Review)(question="What is 2 + 2?", draft="What is 9 * 9? It is 81.")
        assert result.answer == "2 + 2 = 4."
        assert result.critique == "I worked it out again: 2 + 2 = 4."

    @pytest.mark.parametrize(
        "signature", ["text -> summary", "context, user_question -> response", "problem -> solution"]
    )
    def test_other_names(self, signature: str) -> None:
        inputs = {name.strip(): "What is 2 + 2?" for name in signature.split("->")[0].split(",")}
        if "context" in inputs:
            inputs["context"] = "What is 9 * 9?"
        result = dspy.Predict(signature)(**inputs)
        assert result[signature.split("-> ")[1]] == "2 + 2 = 4."

    @pytest.mark.parametrize(
        ("question", "tool", "arguments", "answer"),
        [
            ("What is (2 + 3) * 4?", "calculator", {"expression": "(2 + 3) * 4"}, "(2 + 3) * 4 = 20."),
            (
                "What time is it in Tokyo?",
                "current_time",
                {"timezone": "Asia/Tokyo"},
                "current_time says: noon in Asia/Tokyo.",
            ),
            (
                'How many words are in "a < b & c d"?',
                "text_statistics",
                {"text": "a < b & c d"},
                '"a < b & c d" has 4 words.',
            ),
        ],
    )
    def test_react_calls_the_tool_that_fits_and_finishes(
        self, question: str, tool: str, arguments: dict[str, str], answer: str
    ) -> None:
        agent = dspy.ReAct("question -> answer", tools=[text_statistics, current_time, calculator])
        result = agent(question=question)
        assert result.trajectory["tool_name_0"] == tool
        assert result.trajectory["tool_args_0"] == arguments
        assert result.trajectory["tool_name_1"] == "finish"
        assert result.answer == answer

    @pytest.mark.parametrize("question", ["Write a poem", "What is the capital of France?", "1 + 1"])
    def test_react_finishes_where_no_tool_helps(self, question: str) -> None:
        def broken(place: str) -> str:
            """Calculate the arithmetic mean."""
            raise RuntimeError("down")

        result = dspy.ReAct("question -> answer", tools=[broken])(question=question)
        names = [value for name, value in result.trajectory.items() if name.startswith("tool_name")]
        assert names[-1] == "finish"
        assert len(names) <= 2
        assert result.answer

    def test_react_with_history(self) -> None:
        agent = dspy.ReAct("question, history: dspy.History -> answer", tools=[calculator])
        history = dspy.History(messages=[{"question": "2 + 2", "answer": "4"}])
        result = agent(question="and times 3?", history=history)
        assert result.trajectory["tool_args_0"] == {"expression": "4 * 3"}
        assert result.answer == "4 * 3 = 12."

    async def test_streams_the_same_as_it_answers(self) -> None:
        program = dspy.ChainOfThought("question -> answer")
        streamed = dspy.streamify(program, is_async_program=True)
        chunks, final = [], None
        async for item in streamed(question="What is 2 + 3 * 4?"):
            if isinstance(item, dspy.Prediction):
                final = item
            elif getattr(item, "choices", None):
                chunks.append(item.choices[0].delta["content"] or "")
        assert final is not None
        assert final.toDict() == program(question="What is 2 + 3 * 4?").toDict()
        assert len(chunks) > 20
        assert "2 + 3 * 4 = 14." in "".join(chunks)


def request(text: str, **config: Any) -> lm15.Request:
    return lm15.Request(model=DEMO_MODEL, messages=(lm15.Message.user(text),), config=lm15.Config(**config))


def test_a_plain_prompt_gets_plain_text() -> None:
    assert offline_lm(tokens_per_second=0)("What is 2 + 2?") == ["2 + 2 = 4."]


def test_a_plain_chat_has_a_history() -> None:
    chat = (
        lm15.Message.user("What is 12 * 4?"),
        lm15.Message.assistant("48"),
        lm15.Message.user("and times 3?"),
    )
    response = offline_lm(tokens_per_second=0)(lm15.Request(DEMO_MODEL, chat, system="Be brief."))
    assert response.message.text == "48 * 3 = 144."


def test_markers_are_one_piece_and_nothing_is_lost() -> None:
    text = "[[ ## answer ## ]]\n2 + 2 = 4.\n\n[[ ## completed ## ]]" + "x" * 50
    assert "[[ ## answer ## ]]" in pieces(text)
    assert "\n\n[[ ## completed ## ]]" in pieces(text)
    assert "".join(pieces(text)) == text


def test_usage_counts_the_pieces_read_and_emitted() -> None:
    response = OfflineEngine(0).complete(request("What is 2 + 2?"))
    assert response.usage.input_tokens == len(pieces("What is 2 + 2?"))
    assert response.usage.output_tokens == len(pieces("2 + 2 = 4."))


def test_max_tokens_cuts_and_says_so() -> None:
    response = OfflineEngine(0).complete(request("What is 2 + 2?", max_tokens=3))
    assert (response.message.text, response.finish_reason) == ("2 + 2", "length")
    assert response.usage.output_tokens == 3


def test_a_stop_sequence_ends_the_text() -> None:
    assert OfflineEngine(0).complete(request("What is 2 + 2?", stop=(" =",))).message.text == "2 + 2"


@pytest.mark.parametrize("engine", [OfflineEngine(5.0, "2025-03-04T12:30:00+00:00"), AsyncOfflineEngine(5.0)])
def test_an_engine_survives_pickle_and_state(engine: Any) -> None:
    assert pickle.loads(pickle.dumps(engine)) == engine
    assert type(engine).load_state(engine.dump_state()) == engine


def test_the_lm_survives_saving() -> None:
    lm = offline_lm(tokens_per_second=0, max_tokens=500)
    loaded = dspy.BaseLM.load_state(lm.dump_state(), allow_custom_lm_class=True)
    assert loaded("What is 2 + 2?") == ["2 + 2 = 4."]
    assert pickle.loads(pickle.dumps(lm))("What is 2 + 2?") == ["2 + 2 = 4."]


def test_now_can_be_fixed() -> None:
    engine = OfflineEngine(0, "2025-03-04T12:30:00+00:00")
    assert engine.complete(request("What is today's date?")).message.text == "Today is Tuesday, 4 March 2025."


def test_the_sync_stream_paces_itself() -> None:
    started = time.perf_counter()
    events = list(OfflineEngine(50.0).stream(request("What is 2 + 2?")))
    assert time.perf_counter() - started >= 5 / 50
    assert [event.type for event in events] == ["start", *["delta"] * 5, "end"]


async def test_cancelling_stops_the_stream_at_once() -> None:
    seen = 0

    async def read() -> None:
        nonlocal seen
        async for _ in AsyncOfflineEngine(1.0).stream(request("What is 2 + 2?")):
            seen += 1

    task = asyncio.create_task(read())
    await asyncio.sleep(0.05)
    started = time.perf_counter()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert time.perf_counter() - started < 0.5
    assert seen == 1


async def test_a_stream_without_pace_lets_others_run() -> None:
    turns = []

    async def read(name: str) -> None:
        async for _ in AsyncOfflineEngine(0).stream(request("What is 2 + 2?")):
            turns.append(name)

    await asyncio.gather(read("a"), read("b"))
    assert turns[:4] == ["a", "b", "a", "b"]


def test_the_rules_know_nothing_of_dspy() -> None:
    for path in Path(rules.__file__).parent.glob("*.py"):
        assert not re.search(
            r"^\s*(?:import|from) (?:dspy|mlflow|gradio|httpx)\b", path.read_text("utf-8"), re.M
        ), path


async def test_many_streams_do_not_mix() -> None:
    async def read(number: int) -> str:
        events = AsyncOfflineEngine(2000.0).stream(request(f"What is {number} + 1?"))
        return "".join([event.delta.text async for event in events if event.type == "delta"])

    said = await asyncio.gather(*(read(number) for number in range(100)))
    assert said == [f"{number} + 1 = {number + 1}." for number in range(100)]
