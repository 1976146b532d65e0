"""Random weights, any output fields: what they write within their limit, each adapter can read."""

from __future__ import annotations

from typing import Any

import dspy
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dspy_demo.lm.gguf.generation import Question, answer
from dspy_demo.lm.gguf.heard import Ended, Heard, Text
from dspy_demo.lm.gguf.runtime import Load, LoadedModel
from dspy_demo.lm.grammar import AskedFormat
from dspy_demo.lm.local_models import LocalModel
from tests.lm.gguf.conftest import MakeLM
from tests.lm.grammar.signatures import DEEP, SIMPLE, signature, signatures, types

ADAPTERS: dict[Any, dspy.Adapter] = {
    "chat": dspy.ChatAdapter(),
    "json": dspy.JSONAdapter(),
    "xml": dspy.XMLAdapter(),
}
CONTEXT_TOKENS = 1024


@pytest.fixture(scope="module")
def model(tiny: LocalModel) -> LoadedModel:
    return LoadedModel(Load(tiny.path, CONTEXT_TOKENS, 1))


@settings(max_examples=25, suppress_health_check=list(HealthCheck))
@given(
    asked=signatures(types(*SIMPLE, *DEEP)),
    kind=st.sampled_from(["chat", "json"]),
    max_tokens=st.sampled_from([16, 60, 250]),
    seed=st.integers(0, 10_000),
)
def test_any_signature_parses(
    model: LoadedModel, asked: type[dspy.Signature], kind: Any, max_tokens: int, seed: int
) -> None:
    heard = ask(model, AskedFormat(asked, kind), max_tokens, seed)
    text = "".join(item.text for item in heard if isinstance(item, Text))
    assert ADAPTERS[kind].parse(asked, text).keys() == asked.output_fields.keys()
    end = heard[-1]
    assert isinstance(end, Ended) and end.written_tokens <= max_tokens
    assert end.cut == (end.written_tokens == max_tokens)


def ask(model: LoadedModel, asked: AskedFormat, max_tokens: int, seed: int) -> list[Heard]:
    heard: list[Heard] = []
    # As random as it can be: each allowed token may come.
    sampling = {"seed": seed, "temperature": 1.5, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
    question = Question(({"role": "user", "content": "Answer."},), asked, max_tokens, sampling)
    answer(model, CONTEXT_TOKENS, question, heard.append, lambda: False)
    return heard


@pytest.mark.parametrize("kind", ADAPTERS)
async def test_through_dspy(make_lm: MakeLM, kind: str) -> None:
    """The engine finds out by itself what is asked, in both worlds."""
    asked = signature({"answer": str, "number": int, "sure": bool})
    with dspy.context(lm=make_lm(max_tokens=120), adapter=ADAPTERS[kind]):
        for prediction in (
            dspy.ChainOfThought(asked)(question="What?"),
            await dspy.ChainOfThought(asked).acall(question="What?"),
        ):
            assert isinstance(prediction.answer, str) and prediction.answer
            assert isinstance(prediction.number, int) and isinstance(prediction.sure, bool)


def test_a_program_that_asks_by_itself_gets_free_text(make_lm: MakeLM) -> None:
    class Own(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.predict = dspy.Predict("question -> answer")

        def forward(self, question: str) -> dspy.Prediction:
            return dspy.Prediction(answer=dspy.settings.lm(question)[0])

    with dspy.context(lm=make_lm(max_tokens=16)):
        assert "[[ ##" not in Own()(question="Say something").answer


def test_the_fallback_to_json_gets_the_grammar_of_json(
    make_lm: MakeLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Any, signature: Any, completion: str) -> Any:
        raise dspy.utils.exceptions.AdapterParseError("ChatAdapter", signature, completion)

    monkeypatch.setattr(dspy.ChatAdapter, "parse", refuse)
    with dspy.context(lm=make_lm(max_tokens=60), adapter=dspy.ChatAdapter()):
        assert dspy.Predict("question -> answer")(question="What?").answer
