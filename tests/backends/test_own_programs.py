"""A user's own program: threads of its own, several predictors, attempts, and whatever it returns."""

from __future__ import annotations

import asyncio
import gc
from collections import defaultdict
from pathlib import Path

import pytest

from dspy_demo.programs.own import load_program
from tests.fake_openai import FAULTS, Reply
from tests.services import LITELLM, NATIVE, conversation, until

# Nobody closes a model that a program made for itself: the garbage collector finds its sockets.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
PATHS = pytest.mark.parametrize("model", [NATIVE, LITELLM])
CASES = Path(__file__).parent.parent / "cases"


@pytest.fixture(scope="module", autouse=True)
def collected():
    """They are found within this module, where that is no failure, and not at the end of the session."""
    yield
    gc.collect()


def case(name):
    return load_program(str(CASES / f"{name}.py"))


def streamed(heard):
    """What streamed, by step, field and channel."""
    texts = defaultdict(str)
    for delta in heard.deltas:
        texts[delta.step, delta.field, delta.channel] += delta.text
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
#: Ways in which a program may make two calls.
WAYS = {
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
    "the turn's task": f"""
        async def aforward(self, question: str):
            drafts = [await self.one.acall(question=f"{{question}} {{n}}") for n in range(2)]
            {AJOINED}
    """,
    "forward in the event loop": f"""
        async def aforward(self, question: str):
            drafts = [self.one(question=f"{{question}} {{n}}") for n in range(2)]
            {AJOINED}
    """,
}


@pytest.mark.parametrize("own_model", [False, True])
@PATHS
@pytest.mark.parametrize("way", WAYS)
async def test_calls_of_a_programs_own_threads_work(ask, fake_openai, own_program, way, own_model, model):
    """A model of the program's own cannot stream from every thread; its reply comes whole then."""
    lm = f'dspy.LM("{model}", api_base="{fake_openai.url}", api_key="k", cache=False)' if own_model else None
    heard = await ask(model=model, spec=own_program(FAN.format(lm=lm, program=WAYS[way].strip())))
    assert "visitor-7" in heard.finished.outputs["answer"]
    itself = {"event loop of its own", "the turn's task"}
    streams = way in itself if own_model else way != "forward in the event loop"
    steps = {step for step, _, _ in streamed(heard)}
    assert steps == ({"one", "one#2", "join"} if streams else {"join"})
    assert len(fake_openai.streams) == 3
    assert heard.finished.usage.completion_tokens == sum(stream.tokens_sent for stream in fake_openai.streams)
    assert not heard.finished.usage.cached


@PATHS
async def test_parallel_streams_each_call_by_itself_also_one_tried_again(ask, fake_openai, model):
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
async def test_stop_ends_all_calls_and_starts_no_other(over, fake_openai, name, at_once):
    spec = case(name)
    fake_openai.respond_with(lambda _: Reply(filler_chars=20_000, tokens_per_second=20))
    async with over(spec=spec) as home:
        turn = home.service.turn(home.request("?", program=spec.name))

        async def watch():
            async with turn:
                return [event.kind async for event in turn]

        watching = asyncio.create_task(watch())
        await until(lambda: sum(stream.tokens_sent > 3 for stream in fake_openai.streams) == at_once, 20)
        await turn.stop()
        await fake_openai.await_for(lambda: fake_openai.active_streams == 0)
        assert "finished" not in await watching
    assert len(fake_openai.streams) == at_once
    assert all(stream.client_left for stream in fake_openai.streams)


async def test_a_thread_that_may_be_either_of_two_turns_is_told_what_to_do(over, fake_openai, own_program):
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
            assert heard.failed.code == "program_load" and "dspy.Parallel" in heard.failed.public_message
    assert not fake_openai.streams


THOUGHTS = {
    "declared_out_of_order": [("sketch", "draft"), ("respond", "answer")],
    "two_calls_at_once": [("p", "answer"), ("p#2", "answer")],
    "best_of_n": [("module", "reasoning"), ("module", "answer")],
}


@PATHS
@pytest.mark.parametrize("name", THOUGHTS)
async def test_what_may_not_be_the_answer_streams_as_thoughts(ask, fake_openai, name, model):
    fake_openai.respond_with(lambda _: Reply(tokens_per_second=200))
    texts = streamed(heard := await ask(model=model, spec=case(name)))
    assert set(texts) == {(*place, "reasoning") for place in THOUGHTS[name]} and all(texts.values())
    answers = [text for (_, field, _), text in texts.items() if field == "answer"]
    assert sorted(heard.finished.outputs["answer"].split(" / ")) == sorted(answers)


async def test_a_module_may_name_the_step_that_answers(ask, own_program):
    program = """
        answer_step = "join"
        async def aforward(self, question: str):
            await self.join.acall(question=question, drafts="")
            return await self.join.acall(question=question, drafts="")
    """
    heard = await ask(spec=own_program(FAN.format(lm=None, program=program.strip())))
    assert heard.text("answer", step="join", channel="answer")
    assert heard.text("answer", step="join#2", channel="reasoning") == heard.finished.outputs["answer"]


async def test_a_program_without_types_remembers(ask, fake_openai):
    history = conversation("What is red?", "A colour.")
    assert (await ask(spec=case("history_without_a_type"), history=history)).finished.outputs["answer"]
    _, first, second, _ = fake_openai.requests[-1].json["messages"]
    assert "What is red?" in first["content"] and "A colour." in second["content"]


async def test_what_a_program_returns_is_its_answer(ask, own_program):
    for value, outputs in (('"text"', {"answer": "text"}), ('{"score": 3}', {"score": 3}), ("42", None)):
        does = f"async def aforward(self, question: str): return {value}"
        heard = await ask(spec=own_program(f"import dspy\nclass Own(dspy.Module):\n    {does}"))
        if outputs is None:
            assert heard.failed.code == "program_load"
        else:
            assert heard.finished.outputs == outputs
