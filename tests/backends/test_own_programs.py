"""A visitor's own program: threads of its own, several predictors, attempts, and whatever it returns."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from dspy_demo.api import build_api
from dspy_demo.programs.shipped import SHIPPED
from tests.fake_openai import FAULTS, FakeOpenAI, Reply
from tests.services import LITELLM, NATIVE, Heard, conversation, until

# Nobody closes a model that a program made for itself: the garbage collector finds its sockets.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
PATHS = pytest.mark.parametrize("model", [NATIVE, LITELLM])
CASES = Path(__file__).parent.parent / "cases"


@pytest.fixture(scope="module", autouse=True)
def collected() -> Iterator[None]:
    """They are found within this module, where that is no failure, and not at the end of the session."""
    yield
    gc.collect()


@pytest.fixture
def case(own_program: Any) -> Any:
    """Load a program of `tests/cases`."""
    return lambda name: own_program((CASES / f"{name}.py").read_text())


def streamed(heard: Heard) -> dict[tuple[str, str, str], str]:
    """What streamed, by step, field and channel."""
    texts: dict[tuple[str, str, str], str] = {}
    for delta in heard.deltas:
        place = (delta.step, delta.field, delta.channel)
        texts[place] = texts.get(place, "") + delta.text
    return texts


FAN = """
    import asyncio, dspy
    from concurrent.futures import ThreadPoolExecutor

    class Fan(dspy.Module):
        def __init__(self):
            super().__init__()
            self.one = dspy.Predict("question -> draft")
            self.one.lm = {lm}
            self.join = dspy.Predict("question, drafts -> answer")

        {program}
"""
JOINED = 'return self.join(question=question, drafts="; ".join(draft.draft for draft in drafts))'
AJOINED = 'return await self.join.acall(question=question, drafts="; ".join(d.draft for d in drafts))'
#: Ways in which a program may make two calls where the turn's task does not run.
THREADS = {
    "to_thread": f"""
        async def aforward(self, question: str):
            drafts = await asyncio.gather(*(
                asyncio.to_thread(self.one, question=f"{{question}} {{n}}") for n in range(2)))
            {AJOINED}
    """,
    "plain executor": f"""
        def forward(self, question: str):
            with ThreadPoolExecutor() as pool:
                drafts = list(pool.map(lambda n: self.one(question=f"{{question}} {{n}}"), range(2)))
            {JOINED}
    """,
    "default executor": f"""
        async def aforward(self, question: str):
            loop = asyncio.get_running_loop()
            drafts = await asyncio.gather(*(
                loop.run_in_executor(None, lambda: self.one(question=question)) for _ in range(2)))
            {AJOINED}
    """,
    "event loop of its own": f"""
        def forward(self, question: str):
            async def both():
                return await asyncio.gather(*(self.one.acall(question=question) for _ in range(2)))
            drafts = asyncio.run(both())
            {JOINED}
    """,
    "forward in the event loop": f"""
        async def aforward(self, question: str):
            drafts = [self.one(question=f"{{question}} {{n}}") for n in range(2)]
            {AJOINED}
    """,
}


def own_lm(fake: FakeOpenAI, model: str) -> str:
    return f'dspy.LM("{model}", api_base="{fake.url}", api_key="k", cache=False)'


@pytest.mark.parametrize(("own_model", "model"), [(False, NATIVE), (True, NATIVE), (False, LITELLM)])
@pytest.mark.parametrize("way", THREADS)
async def test_calls_of_a_programs_own_threads_work(
    ask: Any, fake_openai: FakeOpenAI, own_program: Any, way: str, own_model: bool, model: str
) -> None:
    """A model of the program's own cannot stream from every thread; its reply comes whole then."""
    lm = own_lm(fake_openai, model) if own_model else None
    heard = await ask(model=model, spec=own_program(FAN.format(lm=lm, program=THREADS[way].strip())))
    assert "visitor-7" in heard.finished.outputs["answer"]
    streams = way == "event loop of its own" if own_model else way != "forward in the event loop"
    steps = {step for step, _, _ in streamed(heard)}
    assert steps == ({"one", "one#2", "join"} if streams else {"join"})
    assert len(fake_openai.streams) == 3
    assert heard.finished.usage.completion_tokens == sum(stream.tokens_sent for stream in fake_openai.streams)
    assert not heard.finished.usage.cached


@PATHS
async def test_a_model_of_the_programs_own_streams_from_the_program(
    ask: Any, fake_openai: FakeOpenAI, own_program: Any, model: str
) -> None:
    program = f"""
        async def aforward(self, question: str):
            drafts = [await self.one.acall(question=question)]
            {AJOINED}
    """.strip()
    # For seconds, since LiteLLM imports more of itself while the first chunks of its first reply arrive.
    fake_openai.respond_with(lambda _: Reply(tokens_per_second=50, filler_chars=500))
    spec = own_program(FAN.format(lm=own_lm(fake_openai, model), program=program))
    assert sum(delta.step == "one" for delta in (await ask(model=model, spec=spec)).deltas) > 2


@PATHS
async def test_parallel_streams_each_call_by_itself_also_one_that_is_tried_again(
    ask: Any, fake_openai: FakeOpenAI, case: Any, model: str
) -> None:
    fake_openai.reply(FAULTS["500"])
    fake_openai.reply(tokens_per_second=100, times=4)
    texts = streamed(heard := await ask(model=model, spec=case("parallel")))
    assert [status.key for status in heard.statuses] == ["retry"]
    drafts = {(step, "draft", "reasoning") for step in ("one", "one#2", "one#3")}
    assert set(texts) == drafts | {("join", "answer", "reasoning")}
    assert all(texts[place].startswith("The draft for visitor-7 reply-") for place in drafts)
    assert len(set(texts.values())) == 4
    assert texts["join", "answer", "reasoning"] == heard.finished.outputs["answer"]


@pytest.mark.parametrize(("name", "at_once"), [("parallel", 3), ("best_of_n", 1), ("two_calls_at_once", 2)])
async def test_stop_ends_all_calls_and_starts_no_other(
    over: Any, fake_openai: FakeOpenAI, case: Any, name: str, at_once: int
) -> None:
    spec = case(name)
    fake_openai.respond_with(lambda _: Reply(filler_chars=20_000, tokens_per_second=20))
    async with over(spec=spec) as home:
        turn = home.service.turn(home.request("?", program=spec.name))

        async def watch() -> list[str]:
            async with turn:
                return [event.kind async for event in turn]

        watching = asyncio.create_task(watch())
        await until(lambda: sum(stream.tokens_sent > 3 for stream in fake_openai.streams) == at_once, 20)
        await turn.stop()
        await fake_openai.await_for(lambda: fake_openai.active_streams == 0)
        assert "finished" not in await watching
    assert len(fake_openai.streams) == at_once
    assert all(stream.client_left for stream in fake_openai.streams)


async def test_a_thread_that_may_be_either_of_two_turns_is_told_what_to_do(
    over: Any, fake_openai: FakeOpenAI, own_program: Any
) -> None:
    program = """
        both_run = __import__("threading").Barrier(2)
        def forward(self, question: str):
            self.both_run.wait(20)
            with ThreadPoolExecutor() as pool:
                drafts = [pool.submit(self.one, question=question).exception()]
            self.both_run.wait(20)
            raise drafts[0]
    """
    spec = own_program(FAN.format(lm=None, program=program.strip()))
    async with over(spec=spec) as home:
        for heard in await asyncio.gather(*(home.ask("Who is it?", program=spec.name) for _ in range(2))):
            assert heard.failed.code == "program_load"
            assert "dspy.Parallel" in heard.failed.public_message
    assert not fake_openai.streams


@PATHS
@pytest.mark.parametrize(
    ("name", "places"),
    [
        ("declared_out_of_order", [("sketch", "draft"), ("respond", "answer")]),
        ("two_calls_at_once", [("p", "answer"), ("p#2", "answer")]),
        ("best_of_n", [("module", "reasoning"), ("module", "answer")]),
    ],
)
async def test_what_may_not_be_the_answer_streams_as_thoughts(
    ask: Any, fake_openai: FakeOpenAI, case: Any, name: str, places: list[tuple[str, str]], model: str
) -> None:
    fake_openai.respond_with(lambda _: Reply(tokens_per_second=200))
    texts = streamed(heard := await ask(model=model, spec=case(name)))
    assert set(texts) == {(*place, "reasoning") for place in places}
    assert all(texts.values())
    answers = [text for (_, field, _), text in texts.items() if field == "answer"]
    assert sorted(heard.finished.outputs["answer"].split(" / ")) == sorted(answers)


NAMED = """
    import dspy
    class Named(dspy.Module):
        answer_step = "respond"
        def __init__(self):
            super().__init__()
            self.respond = dspy.ChainOfThought("question -> answer")
        async def aforward(self, question: str):
            await self.respond.acall(question=question)
            return await self.respond.acall(question=question)
"""


async def test_a_module_may_name_the_step_that_answers(ask: Any, own_program: Any) -> None:
    heard = await ask(spec=own_program(NAMED))
    assert heard.text("answer", step="respond", channel="answer")
    assert heard.text("answer", step="respond#2", channel="reasoning") == heard.finished.outputs["answer"]


@pytest.mark.parametrize(
    ("name", "whole"), [("best_of_n", True), ("two_calls_at_once", True), ("chain_of_thought", False)]
)
async def test_a_chat_client_gets_no_text_that_may_not_be_the_answer(
    over: Any, fake_openai: FakeOpenAI, case: Any, name: str, whole: bool
) -> None:
    spec = SHIPPED[0] if name == "chain_of_thought" else case(name)
    fake_openai.respond_with(lambda _: Reply(tokens_per_second=200))
    async with over(spec=spec) as home:
        transport = httpx.ASGITransport(build_api(home.service, lambda: home.choice))
        body = {"model": spec.name, "stream": True, "messages": [{"role": "user", "content": "visitor-7?"}]}
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            text = (await client.post("/v1/chat/completions", json=body)).text
    pieces = [line for line in text.splitlines() if '"content":"' in line and '"content":""' not in line]
    assert (len(pieces) == 1) is whole
    assert '"reasoning_content"' in text


async def test_a_program_without_types_remembers(ask: Any, fake_openai: FakeOpenAI, case: Any) -> None:
    history = conversation("What is red?", "A colour.")
    assert (await ask(spec=case("history_without_a_type"), history=history)).finished.outputs["answer"]
    messages = fake_openai.requests[-1].json["messages"]
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user"]
    assert "What is red?" in messages[1]["content"] and "A colour." in messages[2]["content"]


@pytest.mark.parametrize(
    ("value", "outputs"),
    [
        ('"text"', {"answer": "text"}),
        ('{"name": "T", "score": 3}', {"name": "T", "score": 3}),
        ("42", None),
    ],
)
async def test_what_a_program_returns_is_its_answer(
    ask: Any, own_program: Any, value: str, outputs: dict[str, object] | None
) -> None:
    does = f"async def aforward(self, question: str): return {value}"
    heard = await ask(spec=own_program(f"import dspy\nclass Own(dspy.Module):\n    {does}"))
    if outputs is None:
        assert heard.failed.code == "program_load"
    else:
        assert heard.finished.outputs == outputs
