"""The fake server itself, by what the other tests take for granted of it."""

from __future__ import annotations

import dspy
import httpx
import pytest

from tests.fake_openai import FAULTS, ODDITIES, FakeOpenAI, Reply

SILENT = {"silent_before_headers", "silent_after_headers", "stall"}


@pytest.mark.parametrize("name", [*FAULTS, *ODDITIES, "default"])
async def test_each_reply_is_a_failure_or_an_answer_for_dspy(fake_openai: FakeOpenAI, name: str) -> None:
    fake_openai.reply((FAULTS | ODDITIES).get(name, Reply()))
    options = {"api_base": fake_openai.url, "api_key": "k", "timeout": 0.3 if name in SILENT else 10}
    program = dspy.streamify(dspy.ChainOfThought("question -> answer"), is_async_program=True)
    with dspy.context(lm=dspy.LM("openai/fake", num_retries=0, cache=False, **options)):
        if name in FAULTS:
            with pytest.raises(Exception):  # noqa: B017 - which one is the subject of the app's own tests
                [item async for item in program(question="?")]
            await fake_openai.await_for(lambda: fake_openai.active_streams == 0)
        else:
            prediction = [item async for item in program(question="I am visitor-9")][-1]
            assert prediction.reasoning and prediction.answer
            assert name != "default" or "visitor-9" in prediction.answer


async def test_a_client_that_leaves_is_noticed(fake_openai: FakeOpenAI) -> None:
    fake_openai.reply(fault="stall", after_tokens=1)
    body = {"model": "fake", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    async with httpx.AsyncClient() as client:
        async with client.stream("POST", f"{fake_openai.url}/chat/completions", json=body):
            await fake_openai.await_for(lambda: fake_openai.streams[-1].tokens_sent)
        await fake_openai.await_for(lambda: fake_openai.streams[-1].client_left, 1.0)
