"""What servers of OpenAI's chat API say in the body of a reply, each in its own words, and what helps."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.fake_openai import FakeOpenAI, Reply
from tests.services import LITELLM, NATIVE

BOTH = pytest.mark.parametrize("model", [NATIVE, LITELLM], ids=["native", "litellm"])
pytestmark = pytest.mark.integration  # importing litellm takes a while


def said(message: str, **more: Any) -> str:
    return json.dumps({"error": {"message": message, **more}})


TOO_LONG = {
    "OpenAI": said(
        "This model's maximum context length is 8192 tokens. However, your messages resulted in 9000 tokens.",
        type="invalid_request_error", param="messages", code="context_length_exceeded",
    ),
    "vLLM": json.dumps({
        "object": "error", "type": "BadRequestError", "code": 400,
        "message": "You passed 9000 input tokens and requested 100 output tokens. However, the model's "
        "context length is only 8192 tokens, resulting in a maximum input length of 8092 tokens.",
    }),
    "llama.cpp": said(
        "request (9000 tokens) exceeds the available context size (8192 tokens), try increasing it",
        type="exceed_context_size_error", code=400,
    ),
    "LM Studio": json.dumps({
        "error": "Trying to keep the first 9000 tokens when context the overflows. However, the model is "
        "loaded with context length of only 8192 tokens, which is not enough."
    }),
}  # fmt: skip


@pytest.mark.parametrize("server", TOO_LONG)
async def test_a_chat_that_is_too_long_is_called_so(ask: Any, fake_openai: FakeOpenAI, server: str) -> None:
    for model, fault in (
        (NATIVE, Reply(status=400)),
        (NATIVE, Reply(fault="error_event")),
        (LITELLM, Reply(status=400)),
    ):
        fake_openai.reply(fault, error_body=TOO_LONG[server])
        failed = (await ask(model=model, lm_retries=0)).failed
        assert failed.code == "upstream_rejected"
        assert failed.public_message == "The chat has become too long for this model. Start a new chat."


#: An error object in a stream, the number of tokens before it, the code and the words of our error, and those
#: by litellm where it tells less.
FAILED = ("upstream", "server failed")
LATE = ("upstream_cut", "What arrived is kept")
IN_STREAM = [
    (said("The engine is overloaded", type="server_error"), 0, ("upstream_unavailable", "overloaded"), None),
    (said("CUDA out of memory", type="server_error"), 0, FAILED, None),
    (said("bad key", code="invalid_api_key"), 0, ("upstream_auth", "refused the API key"), FAILED),
    (said("CUDA out of memory", code=500), 8, LATE, None),
]


@BOTH
@pytest.mark.parametrize(("body", "after_tokens", "expected", "by_litellm"), IN_STREAM)
async def test_an_error_inside_a_stream_is_read(
    ask: Any,
    fake_openai: FakeOpenAI,
    model: str,
    body: str,
    after_tokens: int,
    expected: Any,
    by_litellm: Any,
) -> None:
    fake_openai.reply(fault="error_event", error_body=body, after_tokens=after_tokens)
    heard = await ask(model=model, lm_retries=0)
    code, says = (model == LITELLM and by_litellm) or expected
    assert (heard.failed.code, says in heard.failed.public_message) == (code, True), heard.failed
    assert bool(heard.deltas) == bool(after_tokens)


REFUSED = [
    (
        ("stream_options",),
        json.dumps({"detail": [{"type": "extra_forbidden", "loc": ["body", "stream_options"], "msg": "no"}]}),
    ),
    (
        ("max_tokens",),
        said(
            "Unsupported parameter: 'max_tokens' is not supported with this model. "
            "Use 'max_completion_tokens' instead.",
            param="max_tokens", code="unsupported_parameter",
        ),
    ),
    (
        ("temperature",),
        said("Unsupported value: 'temperature' does not support 0.5 with this model.", param="temperature"),
    ),
    (
        ("max_tokens", "max_completion_tokens"),
        said("max_tokens is too large: 500. This model supports at most 100 completion tokens."),
    ),
    (
        ("stream_options", "max_tokens", "max_completion_tokens", "temperature"),
        said("Unknown arguments: stream_options, max_tokens, max_completion_tokens, temperature"),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("parameters", "body"), REFUSED, ids=lambda value: str(value)[:40])
async def test_a_refused_parameter_is_left_out(
    ask: Any, fake_openai: FakeOpenAI, parameters: tuple[str, ...], body: str
) -> None:
    def refuse(request: dict[str, Any]) -> Reply | None:
        refused = any(parameter in request for parameter in parameters)
        return Reply(status=422 if "detail" in body else 400, error_body=body) if refused else None

    fake_openai.respond_with(refuse)
    heard = await ask(choice={"temperature": 0.5, "max_tokens": 500})
    assert "visitor-7" in heard.finished.outputs["answer"] and heard.deltas
    assert fake_openai.requests[-1].json.keys().isdisjoint(parameters)


async def test_the_bound_goes_by_the_name_that_the_server_knows(ask: Any, fake_openai: FakeOpenAI) -> None:
    body = said("Unknown argument max_completion_tokens. Use 'max_tokens' instead.")
    fake_openai.respond_with(
        lambda request: Reply(status=400, error_body=body) if "max_completion_tokens" in request else None
    )
    await ask(choice={"max_tokens": 500})
    assert fake_openai.requests[-1].json["max_tokens"] == 500


async def test_a_whole_reply_to_a_request_for_a_stream_is_taken(ask: Any, fake_openai: FakeOpenAI) -> None:
    fake_openai.reply(fault="whole", filler_chars=100_000)
    heard = await ask()
    assert "visitor-7" in heard.finished.outputs["answer"]
    assert heard.finished.usage.completion_tokens > 10_000
    assert len(fake_openai.streams) == 1


IN_A_THREAD = """
import dspy
class InAThread(dspy.Module):
    answer = dspy.ChainOfThought("question -> answer")
    def forward(self, question: str):
        return self.answer(question=question)
"""


@BOTH
@pytest.mark.parametrize("in_a_thread", [False, True])
async def test_done_ends_the_answer_though_the_connection_stays_open(
    ask: Any, fake_openai: FakeOpenAI, own_program: Any, in_a_thread: bool, model: str
) -> None:
    fake_openai.reply(fault="open_after_done")
    heard = await ask(model=model, spec=own_program(IN_A_THREAD) if in_a_thread else None)
    assert "visitor-7" in heard.finished.outputs["answer"]
    assert heard.finished.elapsed_s < 5


async def test_an_answer_that_ends_well_leaves_its_connection_for_the_next(
    over: Any, fake_openai: FakeOpenAI
) -> None:
    async with over() as home:
        for _ in range(3):
            await home.ask("visitor-1")
        assert len(fake_openai.connections) == 1


BROKEN = """
import dspy
class Engine:
    async def complete(self, request):
        raise RuntimeError("a bug")
class Broken(dspy.Module):
    answer = dspy.Predict("question -> answer")
    async def aforward(self, question: str):
        with dspy.context(lm=dspy.LM("own/model", engine=Engine(), async_engine=Engine()), send_stream=None):
            return await self.answer.acall(question=question)
    def forward(self, question: str): ...
"""


async def test_a_bug_on_this_side_is_not_blamed_on_the_server(ask: Any, own_program: Any) -> None:
    assert (await ask(spec=own_program(BROKEN))).failed.code == "internal"


async def test_the_price_of_a_known_model_is_told(over: Any, fake_openai: FakeOpenAI) -> None:
    fake_openai.reply(usage={"prompt_tokens": 1_000_000, "completion_tokens": 0})
    async with over("openai/gpt-4o-mini", choice={"cache": True}) as home:
        first, again = await home.ask("visitor-1"), await home.ask("visitor-1")
    assert first.finished.usage.cost_usd == pytest.approx(0.15, rel=0.5)
    assert again.finished.usage.cached and not again.finished.usage.cost_usd
