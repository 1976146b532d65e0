"""The local backend against a real OpenAI-compatible server, on both of DSPy's call paths."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dspy_demo.events import LMChoice, TurnFinished
from dspy_demo.programs.registry import ProgramRegistry
from dspy_demo.programs.spec import ProgramSpec
from tests.fake_openai import FAULTS, ODDITIES, FakeOpenAI, Reply, tool_reply
from tests.services import conversation, house, settings_for, until

NATIVE, LITELLM = "openai/fake", "litellm_proxy/fake"  # DSPy 3.4.1 has its own engine for the first only
PATHS = pytest.mark.parametrize("model", [NATIVE, LITELLM])


def choice_of(fake: FakeOpenAI, model: str = NATIVE, **values: object) -> LMChoice:
    return LMChoice(model, fake.url, cache=bool(values.pop("cache", False)), **values)  # type: ignore[arg-type]


@PATHS
async def test_reasoning_streams_before_the_answer(
    fake_openai: FakeOpenAI, data_dir: Path, model: str
) -> None:
    async with house(settings_for(data_dir), choice_of(fake_openai, model)) as home:
        heard = await home.ask("Who is visitor-7?")
    channels = [delta.channel for delta in heard.deltas]
    assert channels == sorted(channels, reverse=True)  # "reasoning" before "answer"
    assert heard.text("reasoning") == heard.finished.outputs["reasoning"]
    assert heard.text("answer") == heard.finished.outputs["answer"]
    assert "visitor-7" in heard.text("answer")
    assert heard.started.model == model
    assert heard.finished.usage.prompt_tokens > 0
    assert heard.finished.usage.completion_tokens > 0
    assert not heard.finished.usage.cached
    assert heard.finished.first_delta_s is not None
    assert heard.finished.first_delta_s <= heard.finished.elapsed_s


@pytest.mark.parametrize("adapter", ["chat", "json", "xml"])
async def test_every_adapter_streams_its_fields(
    fake_openai: FakeOpenAI, data_dir: Path, adapter: str
) -> None:
    tricky = 'if [[ -f "x" ]]; then\n    echo "[[1, 2]] > 0"\nfi'
    fake_openai.reply(fields={"reasoning": tricky, "answer": "done 🙂"}, chunk_chars=3)
    async with house(settings_for(data_dir, adapter=adapter), choice_of(fake_openai)) as home:
        heard = await home.ask("?")
    assert heard.text("reasoning") == heard.finished.outputs["reasoning"] == tricky
    assert heard.text("answer") == "done 🙂"


async def test_history_becomes_real_turns(fake_openai: FakeOpenAI, data_dir: Path) -> None:
    async with house(settings_for(data_dir), choice_of(fake_openai)) as home:
        await home.ask("And now?", history=conversation("What is red?", "A colour.", "unanswered"))
    messages = fake_openai.requests[-1].json["messages"]
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user"]
    assert "What is red?" in messages[1]["content"]
    assert "A colour." in messages[2]["content"]
    assert "unanswered" not in str(messages)


async def test_native_thinking_feeds_the_reasoning_channel_once(
    fake_openai: FakeOpenAI, data_dir: Path
) -> None:
    fake_openai.reply(reasoning_content="let me think", fields={"reasoning": "because", "answer": "yes"})
    async with house(settings_for(data_dir), choice_of(fake_openai)) as home:
        heard = await home.ask("?")
    assert heard.text("thinking", channel="reasoning").strip() == "let me think"
    assert heard.text("reasoning") == "because"
    assert heard.text("answer") == "yes"


async def test_a_cache_hit_has_no_deltas_but_all_outputs(fake_openai: FakeOpenAI, data_dir: Path) -> None:
    async with house(settings_for(data_dir), choice_of(fake_openai, cache=True)) as home:
        first = await home.ask("the same question")
        second = await home.ask("the same question")
    assert len(fake_openai.streams) == 1
    assert second.deltas == []
    assert second.finished.outputs == first.finished.outputs
    assert second.finished.usage.cached
    assert second.finished.usage.total_tokens == 0
    assert second.finished.first_delta_s is None


async def test_two_servers_with_one_model_name_do_not_share_answers(data_dir: Path) -> None:
    with FakeOpenAI() as one, FakeOpenAI() as two:
        one.reply(fields={"answer": "from one"})
        two.reply(fields={"answer": "from two"})
        async with house(settings_for(data_dir)) as home:
            first = await home.ask("who?", choice=choice_of(one, cache=True))
            second = await home.ask("who?", choice=choice_of(two, cache=True))
    assert first.finished.outputs["answer"] == "from one"
    assert second.finished.outputs["answer"] == "from two"


async def test_temperature_and_max_tokens_reach_the_server(fake_openai: FakeOpenAI, data_dir: Path) -> None:
    async with house(settings_for(data_dir)) as home:
        await home.ask("?", choice=choice_of(fake_openai, temperature=0.3, max_tokens=77))
        await home.ask("?", choice=choice_of(fake_openai))
    first, second = (request.json for request in fake_openai.requests)
    assert first["temperature"] == 0.3
    assert 77 in {first.get("max_tokens"), first.get("max_completion_tokens")}
    assert "temperature" not in second


async def test_two_predictors_with_one_field_name_stay_apart(fake_openai: FakeOpenAI, data_dir: Path) -> None:
    fake_openai.reply(fields={"answer": "a first try"})
    fake_openai.reply(fields={"reasoning": "the draft is off", "answer": "the final word"})
    async with house(settings_for(data_dir), choice_of(fake_openai)) as home:
        heard = await home.ask("?", program="draft_and_review")
    assert heard.text("answer", step="draft", channel="reasoning") == "a first try"
    assert heard.text("answer", step="review", channel="answer") == "the final word"
    assert heard.text("reasoning", step="review", channel="reasoning") == "the draft is off"


async def test_react_runs_its_tools(fake_openai: FakeOpenAI, data_dir: Path) -> None:
    fake_openai.reply(tool_reply("calculator", {"expression": "6 * 7"}))
    async with house(settings_for(data_dir), choice_of(fake_openai)) as home:
        heard = await home.ask("What is 6 * 7?", program="react")
    pending, done = heard.statuses
    assert (pending.state, done.state) == ("pending", "done")
    assert pending.key == done.key
    assert done.text == 'calculator(expression="6 * 7") → 42'
    assert heard.finished.outputs["trajectory"]["observation_0"] == "42"
    assert heard.text("next_thought", channel="reasoning")
    assert heard.text("next_tool_name", channel="tool") == "calculatorfinish"


@pytest.mark.parametrize("oddity", ["one_character_chunks", "one_chunk", "unicode_split", "no_usage"])
async def test_odd_but_whole_replies_succeed(fake_openai: FakeOpenAI, data_dir: Path, oddity: str) -> None:
    fake_openai.reply(ODDITIES[oddity])
    async with house(settings_for(data_dir), choice_of(fake_openai)) as home:
        heard = await home.ask("visitor-1")
    assert heard.text("reasoning") == heard.finished.outputs["reasoning"]
    assert heard.text("answer") == heard.finished.outputs["answer"]
    assert not heard.finished.usage.cached


@PATHS
async def test_a_retry_is_told_and_then_succeeds(fake_openai: FakeOpenAI, data_dir: Path, model: str) -> None:
    fake_openai.reply(FAULTS["500"])
    async with house(settings_for(data_dir, lm_retries=2), choice_of(fake_openai, model)) as home:
        heard = await home.ask("?")
    assert heard.finished.outputs["answer"]
    assert len(fake_openai.streams) == 2
    assert heard.statuses[0].text == "No answer, retrying in 0.01 s (1/2)"


async def test_no_retry_once_text_was_out(fake_openai: FakeOpenAI, data_dir: Path) -> None:
    fake_openai.reply(FAULTS["cut"], times=3)
    async with house(settings_for(data_dir, lm_retries=2), choice_of(fake_openai)) as home:
        heard = await home.ask("?")
    assert heard.failed.code == "upstream_cut"
    assert len(fake_openai.streams) == 1


@PATHS
@pytest.mark.parametrize(
    ("way", "silent"),
    [("stop", True), ("stop", False), ("leave", False), ("cancel", True), ("error", False)],
)
async def test_stopping_closes_the_upstream_at_once(
    fake_openai: FakeOpenAI, data_dir: Path, model: str, silent: bool, way: str
) -> None:
    rate = 20
    reply = FAULTS["stall"] if silent else Reply(filler_chars=20_000)
    fake_openai.reply(reply, tokens_per_second=rate)
    settings = settings_for(data_dir)
    async with house(settings, choice_of(fake_openai, model)) as home:
        turn = home.service.turn(home.request("?"))
        seen: list[str] = []

        async def watch() -> None:
            async with turn:
                async for event in turn:
                    seen.append(event.kind)
                    if way == "leave" and seen.count("delta") == 2:
                        break
                    if way == "error" and seen.count("delta") == 2:
                        raise ZeroDivisionError

        watching = asyncio.create_task(watch())
        await until(lambda: seen.count("delta") >= 2 or watching.done(), 20)
        stream = fake_openai.streams[-1]
        sent, stopped_at = stream.tokens_sent, time.monotonic()
        if way == "stop":
            await turn.stop()
        elif way == "cancel":
            watching.cancel()
        await asyncio.wait({watching})
        await fake_openai.await_for(lambda: stream.closed_at)
        assert stream.client_left
        assert stream.closed_at is not None
        assert stream.closed_at - stopped_at < 0.1
        assert stream.tokens_sent - sent <= 1
        assert "finished" not in seen
        assert "failed" not in seen
        assert not home.service.running
        if way == "error":
            assert isinstance(watching.exception(), ZeroDivisionError)


async def test_many_visitors_each_get_their_own_text(fake_openai: FakeOpenAI, data_dir: Path) -> None:
    visitors = 100
    async with house(settings_for(data_dir), choice_of(fake_openai)) as home:
        heard = await asyncio.gather(*(home.ask(f"I am visitor-{n:03}.") for n in range(visitors)))
    for number, turn in enumerate(heard):
        everything = turn.text("reasoning") + turn.text("answer") + str(turn.finished.outputs)
        mine = f"visitor-{number:03}"
        assert everything.count("visitor-") == everything.count(mine) > 0
    assert len(fake_openai.streams) == visitors


async def test_concurrent_turns_are_not_queued(fake_openai: FakeOpenAI, data_dir: Path) -> None:
    """DSPy's threads would take 8 at a time; 60 turns that wait 0.5 s would then need 4 s."""
    fake_openai.respond_with(lambda _: Reply(first_delay_s=0.5))
    async with house(settings_for(data_dir), choice_of(fake_openai)) as home:
        await home.ask("warm up")
        tasks = [asyncio.create_task(home.ask(f"{n}")) for n in range(60)]
        await fake_openai.await_for(lambda: fake_openai.active_streams == 60)
        heard = await asyncio.gather(*tasks)
    assert all(isinstance(turn.end, TurnFinished) for turn in heard)


async def test_nothing_of_a_turn_stays_in_dspy(fake_openai: FakeOpenAI, data_dir: Path) -> None:
    """Neither in the histories of calls, nor in the list of predictions that optimizers look at."""
    import dspy
    from dspy.clients import base_lm

    before, traced = len(base_lm.GLOBAL_HISTORY), len(dspy.settings.trace or ())
    async with house(settings_for(data_dir), choice_of(fake_openai)) as home:
        await home.ask("my secret question")
        assert len(dspy.settings.trace or ()) == traced
        lm = home.catalog.lm(home.choice)
        assert lm.history == []
        assert home.programs.module("chain_of_thought").history == []
    assert len(base_lm.GLOBAL_HISTORY) == before
    assert dspy.settings.lm is None


@pytest.mark.parametrize(("asked_s", "attempts"), [(0.2, 2), (60, 1)])
async def test_a_wait_that_the_model_asks_for_is_kept_unless_too_long(
    fake_openai: FakeOpenAI, data_dir: Path, asked_s: float, attempts: int
) -> None:
    fake_openai.reply(FAULTS["429"], retry_after_s=asked_s)
    started = time.monotonic()
    async with house(settings_for(data_dir, lm_retries=1), choice_of(fake_openai)) as home:
        heard = await home.ask("?")
    assert len(fake_openai.streams) == attempts
    if attempts == 2:
        assert heard.finished.outputs["answer"]
        assert time.monotonic() - started > asked_s
    else:
        assert heard.failed.retry_after_s == asked_s


BROKEN = """
    import dspy
    class Broken(dspy.Module):
        async def aforward(self, question: str):
            {does}
"""


@pytest.mark.parametrize(
    ("does", "code"),
    [("return 42", "program_load"), ('raise RuntimeError("the password is hunter2")', "internal")],
)
async def test_a_bug_in_a_program_is_one_sentence(
    data_dir: Path, own_program: Callable[[str], ProgramSpec], does: str, code: str
) -> None:
    spec = own_program(BROKEN.format(does=does))
    async with house(settings_for(data_dir), programs=ProgramRegistry([spec])) as home:
        heard = await home.ask("?", program=spec.name)
    assert heard.failed.code == code
    assert "hunter2" not in heard.failed.public_message
