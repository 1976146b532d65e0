"""The local backend against a real OpenAI-compatible server, and whose answers DSPy's cache may hold."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import dspy
import pytest
from dspy.clients import base_lm

from dspy_demo.events import LMChoice, Visitor
from dspy_demo.guests.limits import GuestLimits
from tests.fake_openai import FAULTS, FakeOpenAI, Reply
from tests.services import LITELLM, NATIVE, Heard, conversation, house, settings_for, until


async def test_the_chat_and_the_models_settings_reach_the_server(ask, fake_openai):
    history = conversation("What is red?", "A colour.", "unanswered")
    await ask("And now?", history=history, choice={"temperature": 0.3, "max_tokens": 77})
    asked = fake_openai.requests[-1].json
    _, first, second, last = asked["messages"]
    assert "What is red?" in first["content"] and "A colour." in second["content"]
    assert [message["role"] for message in (first, second, last)] == ["user", "assistant", "user"]
    assert "unanswered" not in str(asked["messages"])
    assert asked["temperature"] == 0.3
    assert 77 in {asked.get("max_tokens"), asked.get("max_completion_tokens")}


@pytest.mark.parametrize("model", [NATIVE, LITELLM])
async def test_a_failure_is_tried_again_unless_text_was_out(ask, fake_openai, model):
    fake_openai.reply(FAULTS["500"])
    heard = await ask(model=model, lm_retries=2)
    assert heard.finished and heard.statuses[0].text == "No answer, retrying in 0.01 s (1/2)"
    fake_openai.reset()
    fake_openai.reply(FAULTS["cut"])
    assert (await ask(model=model, lm_retries=2)).failed.code == "upstream_cut"
    assert len(fake_openai.streams) == 1


async def test_a_wait_that_the_model_asks_for_is_kept_unless_too_long(ask, fake_openai):
    fake_openai.reply(FAULTS["429"], retry_after="0.2")
    started = time.monotonic()
    assert (await ask(lm_retries=1)).finished and time.monotonic() - started > 0.2
    fake_openai.reply(FAULTS["429"], retry_after="60")
    assert (await ask(lm_retries=1)).failed.retry_after_s == 60
    assert len(fake_openai.streams) == 3


@pytest.mark.parametrize(("model", "silent"), [(NATIVE, True), (LITELLM, True), (NATIVE, False)])
async def test_stopping_or_leaving_closes_the_upstream_at_once(over, fake_openai, model, silent):
    fake_openai.reply(FAULTS["stall"] if silent else Reply(filler_chars=20_000), tokens_per_second=20)
    async with over(model) as home:
        turn, seen = home.service.turn(home.request("?")), []

        async def watch():
            async with turn:
                async for event in turn:
                    seen.append(event.kind)
                    if not silent and seen.count("delta") == 2:
                        break

        watching = asyncio.create_task(watch())
        await until(lambda: seen.count("delta") >= 2 or watching.done(), 20)
        stream = fake_openai.streams[-1]
        sent, stopped_at = stream.tokens_sent, time.monotonic()
        if silent:
            await turn.stop()
        await asyncio.wait({watching})
        await fake_openai.await_for(lambda: stream.closed_at)
        assert not home.service.running
    assert stream.client_left and stream.closed_at - stopped_at < 0.1
    assert stream.tokens_sent - sent <= 1 and {"finished", "failed"}.isdisjoint(seen)


async def test_a_reader_that_is_behind_gets_all_that_came_before_a_failure_in_larger_pieces(
    over, fake_openai
):
    fake_openai.reply(FAULTS["cut"], after_tokens=300, filler_chars=5_000)
    heard = Heard()
    async with over() as home, home.service.turn(home.request("?")) as turn:
        async for event in turn:
            heard.events.append(event)
            await asyncio.sleep(0.01)
    assert heard.failed.code == "upstream_cut"
    assert len(words := heard.text("reasoning").split()) > 290
    assert 2 < len(heard.deltas) < len(words) / 2


async def test_many_visitors_each_get_their_own_text_and_do_not_queue(over, fake_openai):
    """DSPy's threads would take 8 at a time; 100 turns that wait 0.5 s would then need 6 s."""
    fake_openai.respond_with(lambda _: Reply(first_delay_s=0.5))
    async with over() as home:
        tasks = [asyncio.create_task(home.ask(f"I am visitor-{n:03}.")) for n in range(100)]
        await fake_openai.await_for(lambda: fake_openai.active_streams > 60)
        for number, turn in enumerate(await asyncio.gather(*tasks)):
            everything = turn.text("reasoning") + turn.text("answer") + str(turn.finished.outputs)
            assert everything.count("visitor-") == everything.count(f"visitor-{number:03}") > 0


async def test_nothing_of_a_turn_stays_in_dspy(over):
    before, traced = len(base_lm.GLOBAL_HISTORY), len(dspy.settings.trace or ())
    async with over() as home:
        assert (await home.ask("my secret question")).finished
        assert home.catalog.lm(home.choice).history == []
        assert home.programs.module("chain_of_thought").history == []
    assert (len(base_lm.GLOBAL_HISTORY), len(dspy.settings.trace or ())) == (before, traced)
    assert dspy.settings.lm is None


async def test_two_servers_with_one_model_name_do_not_share_answers(data_dir):
    with FakeOpenAI() as one, FakeOpenAI() as two:
        async with house(settings_for(data_dir)) as home:
            for fake, text in ((one, "from one"), (two, "from two")):
                fake.reply(fields={"answer": text})
                heard = await home.ask("who?", choice=LMChoice(NATIVE, fake.url))
                assert heard.finished.outputs["answer"] == text


async def test_guests_neither_read_nor_write_the_cache(fake_openai, data_dir):
    settings, heard = settings_for(data_dir, guest_output_max_tokens=500), []
    choice = LMChoice(NATIVE, fake_openai.url, max_tokens=500)  # the very requests of a guest
    owner, ann, ben = Visitor("owner", "me"), Visitor("guest", "ann"), Visitor("guest", "ben")
    async with house(settings, choice, limits=GuestLimits(settings)) as home:
        for visitor in (ann, ben, owner, owner, ann, owner):
            turn = await home.run(replace(home.request("the same question"), visitor=visitor))
            heard.append(turn.finished.usage.cached)
        assert len(fake_openai.connections) == 1, "a good end leaves its connection for the next"
    assert heard == [False, False, False, True, False, True]
    assert len(fake_openai.streams) == 4


async def test_the_attempts_of_a_program_are_not_one_answer(ask, fake_openai, own_program):
    best = "dspy.BestOfN(dspy.Predict('question -> answer'), N=3, reward_fn=lambda *_: 0.0, threshold=1.0)"
    await ask(spec=own_program(f"import dspy\nprogram = {best}"), choice={"cache": True})
    assert len(fake_openai.streams) == 3


@pytest.mark.filterwarnings("ignore:rollout_id has no effect")
@pytest.mark.parametrize("temperature", [None, 0.0])
async def test_an_answer_from_the_cache_is_whole_free_and_has_no_deltas(over, fake_openai, temperature):
    fake_openai.reply(usage={"prompt_tokens": 1_000_000, "completion_tokens": 0})
    async with over("openai/gpt-4o-mini", choice={"cache": True, "temperature": temperature}) as home:
        first, second = [await home.ask("the same question") for _ in range(2)]
    assert not first.finished.usage.cached
    assert first.finished.usage.cost_usd == pytest.approx(0.15, rel=0.5)
    assert second.deltas == [] and second.finished.outputs == first.finished.outputs
    usage = second.finished.usage
    assert usage.cached and usage.total_tokens == 0 and not usage.cost_usd
