"""A model file through DSPy: it streams, stops, counts, waits, keeps to a format, and fails in sentences."""

import asyncio
import enum
from pathlib import Path
from typing import Literal
from unittest import mock

import dspy
import pydantic
import pytest
from dspy import lm15
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from dspy_demo.adapters import ADAPTERS, adapter_for
from dspy_demo.errors import ModelSetupError
from dspy_demo.lm.chat_lm import call_observer
from dspy_demo.lm.faults import fault_from
from dspy_demo.lm.local import engine as module
from dspy_demo.lm.local.engine import AsyncGgufEngine, GgufEngine, local_lm
from dspy_demo.lm.local.files import LocalModel
from dspy_demo.lm.local.grammar import reply_grammar
from dspy_demo.lm.local.runtime import LoadedModel, jobs
from tests.tiny_gguf import write_tiny_gguf


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    path = write_tiny_gguf(tmp_path_factory.mktemp("models") / "tiny.gguf", ends=False)
    yield LocalModel("tiny", path, size_bytes=path.stat().st_size, title="Tiny")
    jobs.close()


@pytest.fixture(scope="module")
def loaded(tiny):
    return LoadedModel(tiny.path, 4096)


def observe():
    """What the turn's observer is told, from now on."""
    told = []
    observer = mock.Mock(**{"in_turn.return_value": None})
    observer.call_notice = lambda text, state, key: told.append(text)
    return told, call_observer.set(observer)


def request(text, **config):
    message = lm15.Message.user(text)
    return lm15.Request(model="x", messages=(message,), system="Be brief.", config=lm15.Config(**config))


async def test_it_streams_token_by_token_and_counts_as_the_synchronous_one_does(tiny):
    asked = request("What?", max_tokens=20, seed=1, temperature=0.0)
    engine = AsyncGgufEngine(tiny, 4096)
    events = [event async for event in engine.stream(asked)]
    end, deltas = events[-1], [event for event in events if isinstance(event, lm15.StreamDeltaEvent)]
    assert len(deltas) > 5 and end.usage.output_tokens in range(len(deltas), 21)
    assert end.usage.input_tokens > 20 and end.finish_reason == "length"
    whole = GgufEngine(engine).complete(asked)
    assert whole.message.text == "".join(event.delta.text for event in deltas)


async def test_loading_and_reading_are_told_and_what_does_not_fit_is_refused(tiny, tmp_path):
    jobs.close()
    notices, token = observe()
    other = LocalModel("o", write_tiny_gguf(tmp_path / "o.gguf", layers=1, context=600), title="Other")
    for model in (tiny, tiny, other):
        await AsyncGgufEngine(model, 4096).complete(request("word " * 80, max_tokens=1))
    told = [text.rpartition(":")[0] or text for text in notices]
    loads = [f"{word} {title}" for title in ("Tiny", "Other") for word in ("Loading", "Loaded")]
    assert list(dict.fromkeys(told)) == [*loads[:2], "Reading the chat", *loads[2:]]
    call_observer.reset(token)
    for model in (tiny, other):  # as configured, and as trained
        with pytest.raises(dspy.ContextWindowExceededError) as caught:
            await local_lm(model, context_tokens=1024, cache=False).acall("word " * 300)
        assert "too long" in fault_from(caught.value).public_message


async def test_chats_wait_in_the_order_they_came_and_are_told(tiny, monkeypatch):
    monkeypatch.setattr(module, "STILL_WAITING_S", 0.02)
    done = []

    async def chat(number):
        told, _ = observe()
        asked = request(f"chat {number}", max_tokens=400 if number == 0 else 4)
        await AsyncGgufEngine(tiny, 4096).complete(asked)
        done.append(number)
        return told

    chats = []
    for number in range(4):
        chats.append(asyncio.create_task(chat(number)))
        await asyncio.sleep(0)
    chats[1].cancel()
    *_, last = await asyncio.gather(*chats, return_exceptions=True)
    assert done == [0, 2, 3]
    assert last[0].startswith("3 before you") and last[-1] == "Loaded Tiny"
    assert len(last) > 2, "waiting is not silence"


def test_no_port_is_opened_and_no_socket_is_left(tiny):
    def listening():
        tables = [Path("/proc/self/net", name).read_text().splitlines()[1:] for name in ("tcp", "tcp6")]
        numbers = {line.split()[9] for table in tables for line in table if line.split()[3] == "0A"}
        links = [str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
        return numbers & {link.removeprefix("socket:[").removesuffix("]") for link in links}

    jobs.close()
    before = listening()
    GgufEngine(AsyncGgufEngine(tiny, 4096)).complete(request("a", max_tokens=1))
    assert listening() <= before
    named = [line.split()[-1] for line in Path("/proc/net/unix").read_text().splitlines() if "llm-" in line]
    assert named and not any(Path(name).exists() for name in named)


async def test_what_cannot_be_loaded_is_our_error(tiny, tmp_path):
    path = tmp_path / "bad.gguf"
    path.write_bytes(tiny.path.read_bytes()[:60_000])
    bad = LocalModel("bad", path, title="Bad", sha256="0" * 64)
    with pytest.raises(dspy.LMError) as caught:
        await local_lm(bad, context_tokens=512, cache=False).acall("What?")
    fault = fault_from(caught.value)
    assert isinstance(fault, ModelSetupError) and "damaged" in fault.public_message


def test_the_second_attempt_gets_jsons_grammar_and_a_call_of_ones_own_none(tiny, monkeypatch):
    def refuse(self, signature, completion):
        raise dspy.utils.exceptions.AdapterParseError("ChatAdapter", signature, completion)

    lm = local_lm(tiny, cache=False, context_tokens=4096, max_tokens=60)
    monkeypatch.setattr(dspy.ChatAdapter, "parse", refuse)
    with dspy.context(lm=lm, adapter=dspy.ChatAdapter()):
        assert dspy.Predict("question -> answer")(question="What?").answer
        assert "[[ ##" not in lm("Say something")[0]


PART = pydantic.create_model("PART", name=str, size=int)
WITHOUT_SCHEMA = pydantic.create_model("WITHOUT_SCHEMA", handler=type)
COLOURS = enum.Enum("COLOURS", {"RED": "red", "BLUE": "blue"})
SIMPLE = (
    str, str | None, dspy.Reasoning, bool, COLOURS, Literal["yes", "no"], Literal[1, 2.5, True, "three"]
)  # fmt: skip
NESTED = (int, float, list[float], tuple[int, bool], dict[str, int], PART, list[str], list[PART] | None)
NAMES = ("reasoning", "answer", "größe", "日本", "next_tool_args")


def signature(outputs):
    fields = {name: (type_, dspy.OutputField()) for name, type_ in outputs.items()}
    return dspy.Signature({"question": (str, dspy.InputField()), **fields}, "Answer.")


@settings(max_examples=40, derandomize=True, suppress_health_check=list(HealthCheck), deadline=None)
@given(
    name=st.sampled_from(list(ADAPTERS)),
    outputs=st.dictionaries(st.sampled_from(NAMES), st.sampled_from(SIMPLE + NESTED), min_size=1, max_size=4),
    max_tokens=st.sampled_from([16, 60, 500]),
    seed=st.integers(0, 10_000),
)
def test_every_reply_parses_and_ends(loaded, name, outputs, max_tokens, seed):
    asked, text, usage = signature(outputs), [], {}
    grammar = reply_grammar(name, asked, max_tokens)

    def receive(chunk):
        usage.update(chunk.get("usage") or {})
        text.extend(choice["delta"].get("content") or "" for choice in chunk["choices"])
        return False

    # As random as it can be: each allowed token may come.
    sampling = {"seed": seed, "temperature": 1.5, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
    bounds = {"max_tokens": grammar.most_tokens, "grammar": grammar.text}
    asks = {"messages": [{"role": "user", "content": "?"}], "stream_options": {"include_usage": True}}
    loaded.generate(asks | bounds | sampling, receive)
    reply = "".join(text)
    # DSPy cuts a reply at other separators of lines too, also within a string of JSON.
    assume("\n".join(reply.splitlines()) == reply.rstrip("\n"))
    assert adapter_for(name).parse(asked, reply).keys() == asked.output_fields.keys()
    assert usage["completion_tokens"] <= grammar.most_tokens
    if max_tokens == 500 and not set(outputs.values()) & set(NESTED):
        assert grammar.most_tokens == max_tokens


def test_what_a_format_cannot_hold_is_written_freely():
    rows = [("chat", Literal["a\nb"]), ("xml", list[Literal["<"]])]
    for name, type_ in [*rows, ("chat", WITHOUT_SCHEMA), ("json", WITHOUT_SCHEMA)]:
        assert reply_grammar(name, signature({"answer": type_}), 400) is None
