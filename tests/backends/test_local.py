"""The local backend against a real OpenAI-compatible server, on both of DSPy's call paths."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from dspy_demo.events import LMChoice, TurnFinished
from tests.fake_openai import FAULTS, FakeOpenAI, Reply
from tests.services import LITELLM, NATIVE, conversation, house, settings_for, until

PATHS = pytest.mark.parametrize("model", [NATIVE, LITELLM])


async def test_the_chat_and_the_models_settings_reach_the_server(ask: Any, fake_openai: FakeOpenAI) -> None:
    history = conversation("What is red?", "A colour.", "unanswered")
    await ask("And now?", history=history, choice={"temperature": 0.3, "max_tokens": 77})
    asked = fake_openai.requests[-1].json
    assert [message["role"] for message in asked["messages"]] == ["system", "user", "assistant", "user"]
    assert "What is red?" in asked["messages"][1]["content"]
    assert "A colour." in asked["messages"][2]["content"]
    assert "unanswered" not in str(asked["messages"])
    assert asked["temperature"] == 0.3
    assert 77 in {asked.get("max_tokens"), asked.get("max_completion_tokens")}


async def test_two_predictors_with_one_field_name_stay_apart(ask: Any, fake_openai: FakeOpenAI) -> None:
    fake_openai.reply(fields={"answer": "a first try"})
    fake_openai.reply(fields={"reasoning": "the draft is off", "answer": "the final word"})
    heard = await ask(program="draft_and_review")
    assert heard.text("answer", step="draft", channel="reasoning") == "a first try"
    assert heard.text("answer", step="review", channel="answer") == "the final word"
    assert heard.text("reasoning", step="review", channel="reasoning") == "the draft is off"


@PATHS
async def test_a_failure_is_tried_again_unless_text_was_out(
    ask: Any, fake_openai: FakeOpenAI, model: str
) -> None:
    fake_openai.reply(FAULTS["500"])
    heard = await ask(model=model, lm_retries=2)
    assert heard.finished.outputs["answer"]
    assert heard.statuses[0].text == "No answer, retrying in 0.01 s (1/2)"
    fake_openai.reset()
    fake_openai.reply(FAULTS["cut"])
    assert (await ask(model=model, lm_retries=2)).failed.code == "upstream_cut"
    assert len(fake_openai.streams) == 1


@pytest.mark.parametrize(("asked_s", "attempts"), [(0.2, 2), (60, 1)])
async def test_a_wait_that_the_model_asks_for_is_kept_unless_too_long(
    ask: Any, fake_openai: FakeOpenAI, asked_s: float, attempts: int
) -> None:
    fake_openai.reply(FAULTS["429"], retry_after=str(asked_s))
    started = time.monotonic()
    heard = await ask(lm_retries=1)
    assert len(fake_openai.streams) == attempts
    if attempts == 2:
        assert heard.finished and time.monotonic() - started > asked_s
    else:
        assert heard.failed.retry_after_s == asked_s


@pytest.mark.parametrize(
    ("model", "way", "silent"),
    [(NATIVE, "stop", True), (LITELLM, "stop", True), (NATIVE, "leave", False), (NATIVE, "cancel", False)],
)
async def test_stopping_closes_the_upstream_at_once(
    over: Any, fake_openai: FakeOpenAI, model: str, silent: bool, way: str
) -> None:
    fake_openai.reply(FAULTS["stall"] if silent else Reply(filler_chars=20_000), tokens_per_second=20)
    async with over(model) as home:
        turn = home.service.turn(home.request("?"))
        seen: list[str] = []

        async def watch() -> None:
            async with turn:
                async for event in turn:
                    seen.append(event.kind)
                    if way == "leave" and seen.count("delta") == 2:
                        break

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
        assert not home.service.running
    assert stream.client_left and stream.closed_at is not None
    assert stream.closed_at - stopped_at < 0.1
    assert stream.tokens_sent - sent <= 1
    assert {"finished", "failed"}.isdisjoint(seen)


async def test_many_visitors_each_get_their_own_text_and_do_not_queue(
    over: Any, fake_openai: FakeOpenAI
) -> None:
    """DSPy's threads would take 8 at a time; 100 turns that wait 0.5 s would then need 6 s."""
    fake_openai.respond_with(lambda _: Reply(first_delay_s=0.5))
    async with over() as home:
        tasks = [asyncio.create_task(home.ask(f"I am visitor-{n:03}.")) for n in range(100)]
        await fake_openai.await_for(lambda: fake_openai.active_streams > 60)
        for number, turn in enumerate(await asyncio.gather(*tasks)):
            everything = turn.text("reasoning") + turn.text("answer") + str(turn.finished.outputs)
            assert everything.count("visitor-") == everything.count(f"visitor-{number:03}") > 0


async def test_nothing_of_a_turn_stays_in_dspy(over: Any) -> None:
    import dspy
    from dspy.clients import base_lm

    before, traced = len(base_lm.GLOBAL_HISTORY), len(dspy.settings.trace or ())
    async with over() as home:
        assert isinstance((await home.ask("my secret question")).end, TurnFinished)
        assert home.catalog.lm(home.choice).history == []
        assert home.programs.module("chain_of_thought").history == []
    assert (len(base_lm.GLOBAL_HISTORY), len(dspy.settings.trace or ())) == (before, traced)
    assert dspy.settings.lm is None


async def test_two_servers_with_one_model_name_do_not_share_answers(data_dir: Path) -> None:
    with FakeOpenAI() as one, FakeOpenAI() as two:
        async with house(settings_for(data_dir)) as home:
            for fake, text in ((one, "from one"), (two, "from two")):
                fake.reply(fields={"answer": text})
                heard = await home.ask("who?", choice=LMChoice(NATIVE, fake.url))
                assert heard.finished.outputs["answer"] == text
