"""A model file through DSPy: it streams, stops, counts, waits for its turn, and fails in sentences."""

import asyncio
from collections.abc import Iterator
from contextvars import Token
from pathlib import Path
from typing import Any
from unittest import mock

import dspy
import pytest
from dspy import lm15

from dspy_demo.errors import ModelSetupError
from dspy_demo.lm.chat_lm import call_observer
from dspy_demo.lm.faults import fault_from
from dspy_demo.lm.local import engine as module
from dspy_demo.lm.local.engine import AsyncGgufEngine, GgufEngine, local_lm
from dspy_demo.lm.local.files import LocalModel
from dspy_demo.lm.local.runtime import jobs
from tests.tiny_gguf import write_tiny_gguf


def observe() -> tuple[list[str], Token[Any]]:
    """What the turn's observer is told, from now on."""
    told: list[str] = []
    observer = mock.Mock(**{"in_turn.return_value": None})
    observer.call_notice = lambda text, state, key: told.append(text)
    return told, call_observer.set(observer)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalModel]:
    path = write_tiny_gguf(tmp_path_factory.mktemp("models") / "tiny.gguf", ends=False)
    yield LocalModel("tiny", path, size_bytes=path.stat().st_size, title="Tiny")
    jobs.close()


def request(*texts: str, **config: Any) -> lm15.Request:
    kinds = (lm15.Message.user, lm15.Message.assistant)
    messages = tuple(kinds[index % 2](text) for index, text in enumerate(texts))
    return lm15.Request(model="x", messages=messages, system="Be brief.", config=lm15.Config(**config))


async def test_it_streams_token_by_token_and_counts_as_the_synchronous_one_does(tiny):
    asked = request("What?", max_tokens=20, seed=1, temperature=0.0)
    engine = AsyncGgufEngine(tiny, 4096)
    events = [event async for event in engine.stream(asked)]
    deltas, end = [event for event in events if isinstance(event, lm15.StreamDeltaEvent)], events[-1]
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
        fault = fault_from(caught.value)
        assert fault is not None and "too long" in fault.public_message


async def test_chats_wait_in_the_order_they_came_and_are_told(tiny, monkeypatch):
    monkeypatch.setattr(module, "STILL_WAITING_S", 0.02)
    done: list[int] = []

    async def chat(number: int) -> list[str]:
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
    first, _, _, last = await asyncio.gather(*chats, return_exceptions=True)
    assert done == [0, 2, 3]
    assert isinstance(first, list) and isinstance(last, list)
    assert last[0].startswith("3 before you") and last[-1] == "Loaded Tiny"
    assert len(last) > 2, "waiting is not silence"


def test_no_port_is_opened_and_no_socket_is_left(tiny):
    def listening() -> set[str]:
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
    for words in ("damaged", "not on this machine"):
        with pytest.raises(dspy.LMError) as caught:
            await local_lm(bad, context_tokens=512, cache=False).acall("What?")
        fault = fault_from(caught.value)
        assert isinstance(fault, ModelSetupError) and words in fault.public_message
        path.unlink(missing_ok=True)


def test_the_second_attempt_gets_jsons_grammar_and_a_call_of_ones_own_none(tiny, monkeypatch):
    def refuse(self: Any, signature: Any, completion: str) -> Any:
        raise dspy.utils.exceptions.AdapterParseError("ChatAdapter", signature, completion)

    lm = local_lm(tiny, cache=False, context_tokens=4096, max_tokens=60)
    monkeypatch.setattr(dspy.ChatAdapter, "parse", refuse)
    with dspy.context(lm=lm, adapter=dspy.ChatAdapter()):
        assert dspy.Predict("question -> answer")(question="What?").answer
        assert "[[ ##" not in lm("Say something")[0]
