"""Each undocumented part of DSPy that we use is there and does what we use it for."""

from __future__ import annotations

import sys
import types
import warnings
from typing import Any

import dspy
import pytest
from dspy import lm15
from dspy.utils.callback import BaseCallback

from dspy_demo import dspy_bridge
from dspy_demo.lm.demo_engine import AsyncDemoEngine, DemoEngine, demo_lm


class Watch(BaseCallback):
    """Keeps the outputs of model calls."""

    def __init__(self) -> None:
        self.outputs: list[Any] = []

    def on_lm_end(self, call_id: str, outputs: Any, exception: Any = None) -> None:
        self.outputs.append(outputs)


class Receiver:
    def __init__(self) -> None:
        self.parts: list[dspy_bridge.ChunkPart] = []

    async def send(self, chunk: Any) -> None:
        self.parts.append(dspy_bridge.read_chunk(chunk))


class CanStream(BaseCallback):
    def __init__(self) -> None:
        self.found: list[bool] = []

    def on_lm_start(self, call_id: str, instance: Any, inputs: Any) -> None:
        self.found.append(dspy_bridge.can_stream())


async def test_the_chunks_of_an_awaited_call_come_to_the_receiver_and_its_tokens_are_counted() -> None:
    receiver, asked, watch = Receiver(), CanStream(), Watch()
    predict = dspy.Predict("question -> answer")
    with (
        dspy.context(lm=demo_lm(), callbacks=[asked, watch], track_usage=True),
        dspy_bridge.streaming_into(receiver),
        dspy_bridge.counting_tokens() as tokens,
    ):
        prediction = await predict.acall(question="What is 2 + 2?")
    assert asked.found == [True]
    text = "".join(part.content for part in receiver.parts)
    assert prediction.answer in text
    assert receiver.parts[-1].finish_reason == "stop"
    assert dspy_bridge.whole_text(watch.outputs[0]) == text
    counted = dspy_bridge.tokens_of(tokens)
    assert counted is not None and min(counted) > 0


async def test_a_call_that_blocks_the_event_loop_cannot_stream_and_one_in_a_thread_of_dspy_can() -> None:
    asked = CanStream()
    predict = dspy.Predict("question -> answer")
    with dspy.context(lm=demo_lm(cache=False), callbacks=[asked]):
        predict(question="What is 2 + 2?")
        with dspy_bridge.streaming_into(Receiver()):
            await dspy.asyncify(predict)(question="What is 2 + 2?")
    assert asked.found == [False, True]


def test_the_predictor_that_calls_is_known_inside_an_engine() -> None:
    found = []

    class Engine:
        def complete(self, request: Any) -> Any:
            found.append((dspy_bridge.calling_predictor(), dspy_bridge.calling_signature()))
            raise lm15.InvalidRequestError("seen")

    predict = dspy.Predict("question -> answer")
    lm = dspy.LM("probe/model", engine=Engine(), cache=False, num_retries=0)
    with dspy.context(lm=lm), pytest.raises(dspy.utils.exceptions.LMError):
        predict(question="?")
    assert found[0] == (predict, predict.signature)


async def test_a_reply_that_was_cut_is_not_asked_for_again_in_json() -> None:
    asked = []

    class Cut(BaseCallback):
        def on_lm_end(self, call_id: str, outputs: Any, exception: Any = None) -> None:
            asked.append(outputs)
            dspy_bridge.ask_only_once()

    lm = dspy.utils.DummyLM([{"nothing": "of use"}] * 3)
    with dspy.context(lm=lm, callbacks=[Cut()]), pytest.raises(dspy.utils.exceptions.AdapterParseError):
        await dspy.Predict("question -> answer").acall(question="?")
    assert len(asked) == 1


async def test_the_words_for_a_predictor_without_a_model() -> None:
    with dspy.context(lm=None), pytest.raises(ValueError) as caught:
        dspy.Predict("question -> answer")(question="?")
    assert dspy_bridge.lacks_model(caught.value)
    assert not dspy_bridge.lacks_model(ValueError("No."))


def test_a_price_is_known_and_an_unknown_model_has_none() -> None:
    reply = lm15.Response(
        id=None,
        model="gpt-4o-mini",
        message=lm15.Message.assistant("Yes."),
        finish_reason="stop",
        usage=lm15.Usage(input_tokens=1_000_000, output_tokens=0),
    )
    known = dspy_bridge.price_usd(reply, "openai-chat", "gpt-4o-mini")
    assert known == pytest.approx(0.15, rel=0.5)
    assert dspy_bridge.price_usd(reply, "no-such-client", "no-such-model") is None


async def test_the_connections_of_a_client_are_there_to_be_sent_through() -> None:
    router = lm15.AsyncLMRouter(lm15.RouterConfig(env={}, api_keys={"openai-chat": "none"}))
    assert callable(dspy_bridge.connections_of(router, "openai-chat:x").stream)
    await router.aclose()


async def test_a_model_hears_of_its_calls_and_a_scope_in_the_cache_warns_of_nothing() -> None:
    entries = []

    class LM(dspy_bridge.CallRecords, dspy.LM):  # type: ignore[misc]
        def call_recorded(self, entry: dict[str, Any]) -> None:
            entries.append(entry)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        engines = {"engine": DemoEngine(), "async_engine": AsyncDemoEngine()}
        lm = LM("demo/x", temperature=0.0, rollout_id="x", cache=False, **engines)
        with dspy.context(lm=lm.copy()), dspy_bridge.stream_progress() as progress:
            await dspy.Predict("question -> answer").acall(question="What is 2 + 2?")
    assert {"response", "usage", "cost"} <= entries[0].keys()
    assert not progress.emitted


async def test_a_chunk_that_was_streamed_is_known() -> None:
    predict = dspy.Predict("question -> answer")
    with (
        dspy.context(lm=demo_lm(cache=False)),
        dspy_bridge.streaming_into(Receiver()),
        dspy_bridge.stream_progress() as progress,
    ):
        await predict.acall(question="What is 2 + 2?")
    assert progress.emitted


def test_a_callback_in_a_program_hears_its_predictors_once() -> None:
    found: list[Any] = []

    class Heard(dspy_bridge.ModuleCallback):
        def on_module_start(self, call_id: str, instance: Any, inputs: Any) -> None:
            found.append(instance)

    program, heard = dspy.ChainOfThought("question -> answer"), Heard()
    for _ in range(2):
        heard.hear(program)
    with dspy.context(lm=demo_lm(cache=False)):
        program(question="?")
    assert found == [program.predict]


def test_without_its_parts_no_usage_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dspy.utils.usage_tracker", None)
    with dspy_bridge.counting_tokens() as tokens:
        assert dspy_bridge.tokens_of(tokens) is None


@pytest.mark.parametrize("chunk", [None, object(), types.SimpleNamespace(choices=[])])
def test_a_chunk_of_another_shape_adds_nothing(chunk: Any) -> None:
    assert dspy_bridge.read_chunk(chunk) == dspy_bridge.ChunkPart()
