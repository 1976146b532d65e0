"""What the undocumented parts of DSPy tell is missed without harm; that they tell it, every answer shows."""

import sys

import pytest
from dspy import lm15

from dspy_demo import dspy_bridge


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
