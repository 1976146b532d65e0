"""How a reply ends, and what a model thinks in it, on both of DSPy's call paths."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dspy_demo.events import LMChoice
from tests.fake_openai import FakeOpenAI
from tests.services import conversation, house, settings_for

PATHS = pytest.mark.parametrize("model", ["openai/fake", "litellm_proxy/fake"])  # DSPy's engine, and litellm
ADAPTERS = pytest.mark.parametrize("adapter", ["chat", "json", "xml"])
CUT = {
    "chat": "[[ ## reasoning ## ]]\nbecause it is",
    "json": '{"reasoning": "because it is',
    "xml": "<reasoning>\nbecause it is",
}
COMPLETE = {
    "chat": "[[ ## reasoning ## ]]\nbecause\n\n[[ ## answer ## ]]\nyes",
    "json": '{"reasoning": "because", "answer": "yes"}',
    "xml": "<reasoning>because</reasoning>\n<answer>yes</answer>",
}


def choice_of(fake: FakeOpenAI, model: str = "openai/fake", *, cache: bool = False) -> LMChoice:
    return LMChoice(model, fake.url, cache=cache)


@PATHS
@ADAPTERS
@pytest.mark.parametrize(
    ("replies", "reason"),
    [(CUT, "length"), (CUT, "content_filter"), (COMPLETE, "length"), (COMPLETE, "stop")],
    ids=["cut-length", "cut-content_filter", "complete-length", "complete-stop"],
)
async def test_a_cut_reply_is_what_had_come_and_is_asked_for_once(
    fake_openai: FakeOpenAI, data_dir: Path, model: str, adapter: str, reason: str, replies: dict[str, str]
) -> None:
    fake_openai.reply(text=replies[adapter], finish_reason=reason)
    async with house(settings_for(data_dir, adapter=adapter), choice_of(fake_openai, model)) as home:
        heard = await home.ask("?")
    assert heard.finished.finish_reason == reason
    whole = {"reasoning": "because", "answer": "yes"}
    assert heard.finished.outputs == (whole if replies is COMPLETE else {"reasoning": "because it is"})
    assert heard.finished.usage.completion_tokens > 0
    assert len(fake_openai.streams) == 1


@PATHS
async def test_a_reply_that_was_filtered_away_is_no_failure(
    fake_openai: FakeOpenAI, data_dir: Path, model: str
) -> None:
    fake_openai.reply(text="", finish_reason="content_filter")
    async with house(settings_for(data_dir), choice_of(fake_openai, model)) as home:
        heard = await home.ask("?")
    assert (heard.finished.finish_reason, heard.finished.outputs) == ("content_filter", {})


@PATHS
async def test_a_cut_reply_from_the_cache_is_not_paid_for_again(
    fake_openai: FakeOpenAI, data_dir: Path, model: str
) -> None:
    fake_openai.reply(text=CUT["chat"], finish_reason="length")
    async with house(settings_for(data_dir), choice_of(fake_openai, model, cache=True)) as home:
        first, second = await home.ask("the same"), await home.ask("the same")
    assert len(fake_openai.streams) == 1
    assert second.finished.finish_reason == "length"
    assert second.finished.outputs == first.finished.outputs
    assert second.finished.usage.cached


async def test_only_the_call_that_made_the_answer_counts(fake_openai: FakeOpenAI, data_dir: Path) -> None:
    fake_openai.reply(text="[[ ## answer ## ]]\na draft that was", finish_reason="length")
    async with house(settings_for(data_dir), choice_of(fake_openai)) as home:
        heard = await home.ask("?", program="draft_and_review")
    assert heard.finished.finish_reason == "stop"
    assert len(fake_openai.streams) == 2


# Thinking


@PATHS
@ADAPTERS
@pytest.mark.parametrize("chunk_chars", [1, 3, 0])
async def test_think_tags_are_thinking_and_no_part_of_the_fields(
    fake_openai: FakeOpenAI, data_dir: Path, model: str, adapter: str, chunk_chars: int
) -> None:
    thought = "Is 1 < 2? {yes}\n[[ ## answer ## ]]\n<answer>no</answer>"
    reply = f"\n<think>\n{thought}\n</think>\n\n{COMPLETE[adapter]}"
    fake_openai.reply(text=reply, chunk_chars=chunk_chars)
    async with house(settings_for(data_dir, adapter=adapter), choice_of(fake_openai, model)) as home:
        heard = await home.ask("?")
    assert heard.finished.outputs == {"reasoning": "because", "answer": "yes"}
    assert heard.text("thinking", channel="reasoning").strip() == thought
    assert heard.text("reasoning", channel="reasoning") == "because"
    assert heard.text("answer", channel="answer") == "yes"
    if chunk_chars == 1:
        assert sum(delta.field == "thinking" for delta in heard.deltas) > 3, "it came in one lump"


@pytest.mark.parametrize("chunk_chars", [1, 0])
async def test_think_tags_inside_a_field_are_thinking_too(
    fake_openai: FakeOpenAI, data_dir: Path, chunk_chars: int
) -> None:
    fake_openai.reply(text="[[ ## answer ## ]]\n<think>hm</think>\nyes", chunk_chars=chunk_chars)
    async with house(settings_for(data_dir), choice_of(fake_openai)) as home:
        heard = await home.ask("?", program="predict")
    assert heard.finished.outputs == {"answer": "yes"}
    assert heard.text("answer").strip() == "yes"
    assert heard.text("thinking") == "hm"


@pytest.mark.parametrize("answer", ["<b>", "a <think> tag", "<thinking>", "</think>"])
async def test_text_about_tags_is_text(fake_openai: FakeOpenAI, data_dir: Path, answer: str) -> None:
    fake_openai.reply(fields={"reasoning": "because", "answer": answer}, chunk_chars=1)
    async with house(settings_for(data_dir), choice_of(fake_openai)) as home:
        heard = await home.ask("?")
    assert heard.text("answer") == heard.finished.outputs["answer"] == answer


async def test_a_reply_that_was_cut_while_thinking_has_no_fields(
    fake_openai: FakeOpenAI, data_dir: Path
) -> None:
    fake_openai.reply(text="<think>this takes lo", finish_reason="length")
    async with house(settings_for(data_dir), choice_of(fake_openai)) as home:
        heard = await home.ask("?")
    assert heard.text("thinking") == "this takes lo"
    assert (heard.finished.finish_reason, heard.finished.outputs) == ("length", {})


# Memory


@ADAPTERS
@pytest.mark.parametrize("program", ["chain_of_thought", "react"])
async def test_earlier_turns_hold_no_none(
    fake_openai: FakeOpenAI, data_dir: Path, adapter: str, program: str
) -> None:
    async with house(settings_for(data_dir, adapter=adapter), choice_of(fake_openai)) as home:
        await home.ask("And now?", program=program, history=conversation("What is red?", "A colour."))
    earlier: list[dict[str, Any]] = [
        message
        for request in fake_openai.requests
        for message in request.json["messages"]
        if message["role"] == "assistant"
    ]
    assert earlier
    assert not any("None" in message["content"] or "null" in message["content"] for message in earlier)
