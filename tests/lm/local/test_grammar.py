"""Random weights, any output fields: what they write within their bounds, each adapter can read."""

import enum
from typing import Any, Literal

import dspy
import pydantic
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from dspy_demo.adapters import ADAPTERS, adapter_for
from dspy_demo.lm.local.grammar import reply_grammar
from dspy_demo.lm.local.runtime import LoadedModel
from tests.tiny_gguf import write_tiny_gguf


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Part(pydantic.BaseModel):
    name: str
    size: int


TEXTS = (str, str | None, dspy.Reasoning)
CHOICES = (bool, Colour, Literal["yes", "no"], Literal[1, 2.5, True, "three"])
NESTED = (int, float, list[float], tuple[int, bool], dict[str, int], Part, list[str], list[Part] | None)
NAMES = ("reasoning", "answer", "größe", "日本", "next_tool_args")


def signature(outputs: dict[str, Any]) -> type[dspy.Signature]:
    fields = {name: (type_, dspy.OutputField()) for name, type_ in outputs.items()}
    return dspy.Signature({"question": (str, dspy.InputField()), **fields}, "Answer.")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return LoadedModel(write_tiny_gguf(tmp_path_factory.mktemp("models") / "tiny.gguf", ends=False), 4096)


@settings(max_examples=40, derandomize=True, suppress_health_check=list(HealthCheck), deadline=None)
@given(
    name=st.sampled_from(list(ADAPTERS)),
    outputs=st.dictionaries(
        st.sampled_from(NAMES), st.sampled_from(TEXTS + CHOICES + NESTED), min_size=1, max_size=4
    ),
    max_tokens=st.sampled_from([16, 60, 500]),
    seed=st.integers(0, 10_000),
)
def test_every_reply_parses_and_ends(model, name, outputs, max_tokens, seed):
    asked, text, usage = signature(outputs), list[str](), dict[str, int]()
    grammar = reply_grammar(name, asked, max_tokens)

    def receive(chunk: dict[str, Any]) -> bool:
        usage.update(chunk.get("usage") or {})
        text.extend(choice["delta"].get("content") or "" for choice in chunk["choices"])
        return False

    # As random as it can be: each allowed token may come.
    sampling = {"seed": seed, "temperature": 1.5, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
    bounds = {"max_tokens": grammar.most_tokens, "grammar": grammar.text}
    asks = {"messages": [{"role": "user", "content": "?"}], "stream_options": {"include_usage": True}}
    model.generate(asks | bounds | sampling, receive)
    reply = "".join(text)
    # DSPy cuts a reply at other separators of lines too, also within a string of JSON.
    assume("\n".join(reply.splitlines()) == reply.rstrip("\n"))
    parsed = adapter_for(name).parse(asked, reply)
    assert parsed.keys() == asked.output_fields.keys()
    assert usage["completion_tokens"] <= grammar.most_tokens
    if max_tokens == 500 and not set(outputs.values()) & set(NESTED):
        assert grammar.most_tokens == max_tokens


class Endless(pydantic.BaseModel):
    handler: type


@pytest.mark.parametrize(
    ("name", "type_"),
    [("chat", Endless), ("chat", Literal["a\nb"]), ("xml", list[Literal["<"]]), ("json", Endless)],
)
def test_what_a_format_cannot_hold_is_written_freely(name, type_):
    assert reply_grammar(name, signature({"answer": type_}), 400) is None
