"""What servers of OpenAI's chat API say in the body of a reply, each in its own words, and what helps."""

from __future__ import annotations

import json

import pytest

from tests.fake_openai import Reply
from tests.services import LITELLM, NATIVE

BOTH = pytest.mark.parametrize("model", [NATIVE, LITELLM], ids=["native", "litellm"])
pytestmark = pytest.mark.integration  # importing litellm takes a while


def said(message, **more):
    return json.dumps({"error": {"message": message, **more}})


VLLM = """You passed 9000 input tokens and requested 100 output tokens. However, the model's context length \
is only 8192 tokens, resulting in a maximum input length of 8092 tokens."""
LM_STUDIO = """Trying to keep the first 9000 tokens when context the overflows. However, the model is loaded \
with context length of only 8192 tokens, which is not enough."""
TOO_LONG = {
    "OpenAI": said("This model's maximum context length is 8192 tokens.", code="context_length_exceeded"),
    "vLLM": json.dumps({"object": "error", "type": "BadRequestError", "code": 400, "message": VLLM}),
    "llama.cpp": said("request (9000 tokens) exceeds the available context size (8192 tokens)", code=400),
    "LM Studio": json.dumps({"error": LM_STUDIO}),
}


@pytest.mark.parametrize("server", TOO_LONG)
async def test_a_chat_that_is_too_long_is_called_so(ask, fake_openai, server):
    in_stream = Reply(fault="error_event")
    for model, fault in ((NATIVE, Reply(status=400)), (NATIVE, in_stream), (LITELLM, Reply(status=400))):
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
@pytest.mark.parametrize("row", IN_STREAM)
async def test_an_error_inside_a_stream_is_read(ask, fake_openai, model, row):
    body, after_tokens, expected, by_litellm = row
    fake_openai.reply(fault="error_event", error_body=body, after_tokens=after_tokens)
    heard = await ask(model=model, lm_retries=0)
    code, says = (model == LITELLM and by_litellm) or expected
    assert (heard.failed.code, says in heard.failed.public_message) == (code, True), heard.failed
    assert bool(heard.deltas) == bool(after_tokens)


EXTRA = {"type": "extra_forbidden", "loc": ["body", "stream_options"], "msg": "no"}
NAMED = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens'."
TOO_LARGE = "max_tokens is too large: 500. This model supports at most 100 completion tokens."
ALL = "stream_options, max_tokens, max_completion_tokens, temperature"
#: What a server refuses, and what it says of that.
REFUSED = [
    ("stream_options", json.dumps({"detail": [EXTRA]})),
    ("max_tokens", said(NAMED, param="max_tokens", code="unsupported_parameter")),
    ("temperature", said("Unsupported value: 'temperature' does not support 0.5.", param="temperature")),
    ("max_tokens, max_completion_tokens", said(TOO_LARGE)),
    (ALL, said(f"Unknown arguments: {ALL}")),
]


@pytest.mark.parametrize(("parameters", "body"), REFUSED, ids=[parameters for parameters, _ in REFUSED])
async def test_a_refused_parameter_is_left_out(ask, fake_openai, parameters, body):
    def refuse(request):
        refused = request.keys() & parameters.split(", ")
        return Reply(status=422 if "detail" in body else 400, error_body=body) if refused else None

    fake_openai.respond_with(refuse)
    heard = await ask(choice={"temperature": 0.5, "max_tokens": 500})
    assert "visitor-7" in heard.finished.outputs["answer"] and heard.deltas
    assert fake_openai.requests[-1].json.keys().isdisjoint(parameters.split(", "))


async def test_the_bound_goes_by_the_name_that_the_server_knows(ask, fake_openai):
    refusal = Reply(status=400, error_body=said("Unknown argument max_completion_tokens. Use 'max_tokens'."))
    fake_openai.respond_with(lambda request: refusal if "max_completion_tokens" in request else None)
    await ask(choice={"max_tokens": 500})
    assert fake_openai.requests[-1].json["max_tokens"] == 500


async def test_a_whole_reply_to_a_request_for_a_stream_is_taken(ask, fake_openai):
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
async def test_done_ends_the_answer_on_an_open_connection(ask, fake_openai, own_program, in_a_thread, model):
    fake_openai.reply(fault="open_after_done")
    heard = await ask(model=model, spec=own_program(IN_A_THREAD) if in_a_thread else None)
    assert "visitor-7" in heard.finished.outputs["answer"]
    assert heard.finished.elapsed_s < 5


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


async def test_a_bug_on_this_side_is_not_blamed_on_the_server(ask, own_program):
    assert (await ask(spec=own_program(BROKEN))).failed.code == "internal"
