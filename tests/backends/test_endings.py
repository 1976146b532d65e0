"""How a reply ends, and what a model thinks in it, on both of DSPy's call paths."""

from __future__ import annotations

import pytest

from tests.services import LITELLM, NATIVE, conversation

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
WHOLE, PART = {"reasoning": "because", "answer": "yes"}, {"reasoning": "because it is"}


@pytest.mark.parametrize(
    ("model", "adapter", "text", "reason", "outputs"),
    [
        *((NATIVE, name, text, "length", PART) for name, text in CUT.items()),
        *((NATIVE, name, text, "length", WHOLE) for name, text in COMPLETE.items()),
        *((model, "chat", CUT["chat"], "content_filter", PART) for model in (NATIVE, LITELLM)),
        *((model, "chat", "", "content_filter", {}) for model in (NATIVE, LITELLM)),
        (LITELLM, "json", CUT["json"], "length", PART),
        (NATIVE, "chat", "<think>this takes lo", "length", {}),
    ],
)
async def test_a_cut_reply_is_what_had_come_paid_for_once(
    over, fake_openai, model, adapter, text, reason, outputs
):
    fake_openai.reply(text=text, finish_reason=reason)
    async with over(model, adapter=adapter, choice={"cache": True}) as home:
        first, again = [await home.ask("the same") for _ in range(2)]
    for heard in (first, again):
        assert (heard.finished.finish_reason, heard.finished.outputs) == (reason, outputs)
    assert again.finished.usage.cached
    assert len(fake_openai.streams) == 1


async def test_only_the_call_that_made_the_answer_counts(ask, fake_openai):
    fake_openai.reply(text="[[ ## answer ## ]]\na draft that was", finish_reason="length")
    assert (await ask(program="draft_and_review")).finished.finish_reason == "stop"
    assert len(fake_openai.streams) == 2


@pytest.mark.parametrize(("model", "chunk_chars"), [(NATIVE, 1), (NATIVE, 0), (LITELLM, 1)])
@ADAPTERS
async def test_think_tags_are_thinking_and_no_part_of_a_field(ask, fake_openai, model, adapter, chunk_chars):
    thought = "Is 1 < 2? {yes}\n[[ ## answer ## ]]\n<answer>no</answer>"
    reply = f"\n<think>\n{thought}\n</think>\n\n{COMPLETE[adapter]}"
    fake_openai.reply(text=reply, chunk_chars=chunk_chars)
    heard = await ask(model=model, adapter=adapter)
    assert heard.finished.outputs == WHOLE
    assert heard.text("thinking", channel="reasoning").strip() == thought
    assert heard.text("reasoning", channel="reasoning") == "because"
    assert heard.text("answer", channel="answer") == "yes"
    if chunk_chars == 1:
        assert sum(delta.field == "thinking" for delta in heard.deltas) > 3, "it came in one lump"


@pytest.mark.parametrize("chunk_chars", [1, 0])
async def test_thinking_in_a_field_or_told_apart_by_the_server_is_thinking_too(ask, fake_openai, chunk_chars):
    fake_openai.reply(text="[[ ## answer ## ]]\n<think>hm</think>\nyes", chunk_chars=chunk_chars)
    fake_openai.reply(text="[[ ## answer ## ]]\nyes", reasoning_content="hm")
    for _ in range(2):
        heard = await ask(program="predict")
        assert heard.finished.outputs == {"answer": "yes"}
        assert (heard.text("answer").strip(), heard.text("thinking").strip()) == ("yes", "hm")


@pytest.mark.parametrize("answer", ["<b>", "a <think> tag", "<thinking>", "</think>"])
async def test_text_about_tags_is_text(ask, fake_openai, answer):
    fake_openai.reply(fields={"reasoning": "because", "answer": answer}, chunk_chars=1)
    heard = await ask()
    assert heard.text("answer") == heard.finished.outputs["answer"] == answer


@ADAPTERS
async def test_earlier_turns_hold_no_none(ask, fake_openai, adapter):
    for program in ("chain_of_thought", "react"):
        await ask(program=program, adapter=adapter, history=conversation("What is red?", "A colour."))
    messages = [message for request in fake_openai.requests for message in request.json["messages"]]
    earlier = [message["content"] for message in messages if message["role"] == "assistant"]
    assert earlier
    assert not any("None" in text or "null" in text for text in earlier)
