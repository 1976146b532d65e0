"""Each undocumented part of DSPy that we use does what we use it for, and is missed without harm."""

from __future__ import annotations

import sys
from typing import Any

import dspy
import pytest
from dspy import lm15

from dspy_demo import dspy_bridge
from dspy_demo.lm.demo_engine import demo_lm


class Receiver:
    def __init__(self) -> None:
        self.choices: list[Any] = []

    async def send(self, chunk: Any) -> None:
        self.choices += chunk.choices


async def test_chunks_come_to_the_receiver_and_tokens_are_counted():
    receiver, predict = Receiver(), dspy.Predict("question -> answer")
    with (
        dspy.context(lm=demo_lm(), track_usage=True, send_stream=receiver),
        dspy_bridge.counting_tokens() as tokens,
    ):
        prediction = await predict.acall(question="What is 2 + 2?")
    assert prediction.answer in "".join(choice.delta.get("content") or "" for choice in receiver.choices)
    assert receiver.choices[-1].finish_reason == "stop"
    counted = dspy_bridge.tokens_of(tokens)
    assert counted is not None and min(counted) > 0


def test_the_predictor_that_calls_is_known_inside_an_engine():
    found = []

    class Engine:
        def complete(self, request: Any) -> Any:
            found.append(dspy_bridge.calling_predictor())
            raise lm15.InvalidRequestError("seen")

    predict = dspy.Predict("question -> answer")
    lm = dspy.LM("probe/model", engine=Engine(), cache=False, num_retries=0)
    with dspy.context(lm=lm), pytest.raises(dspy.utils.exceptions.LMError):
        predict(question="?")
    assert found == [predict]
    assert dspy_bridge.calling_predictor() is None


def test_a_price_is_known_and_an_unknown_model_or_a_missing_part_has_none(monkeypatch):
    message, usage = lm15.Message.assistant("Yes."), lm15.Usage(input_tokens=1_000_000, output_tokens=0)
    reply = lm15.Response(id=None, model="gpt-4o-mini", message=message, finish_reason="stop", usage=usage)
    assert dspy_bridge.price_usd(reply, "openai-chat", "gpt-4o-mini") == pytest.approx(0.15, rel=0.5)
    assert dspy_bridge.price_usd(reply, "no-such-client", "no-such-model") is None
    monkeypatch.setitem(sys.modules, "dspy.utils.usage_tracker", None)
    monkeypatch.setitem(sys.modules, "dspy.clients.costs", None)
    with dspy_bridge.counting_tokens() as tokens:
        assert dspy_bridge.tokens_of(tokens) is None
    assert dspy_bridge.price_usd(reply, "openai-chat", "gpt-4o-mini") is None


async def test_the_connections_of_a_router_send_its_requests():
    router = lm15.AsyncLMRouter(lm15.RouterConfig(env={}, api_keys={"openai-chat": "none"}))
    assert callable(dspy_bridge.connections_of(router, "openai-chat:m").stream)
    await router.aclose()
