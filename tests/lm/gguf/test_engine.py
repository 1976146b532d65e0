"""A model file through DSPy: it streams, stops, counts, waits in line, and fails in sentences."""

from __future__ import annotations

import asyncio
import builtins
import pickle
import threading
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import dspy
import pytest
from dspy import lm15

from dspy_demo.errors import ModelSetupError
from dspy_demo.lm.faults import fault_from
from dspy_demo.lm.gguf import generation, memory
from dspy_demo.lm.gguf.engine import AsyncGgufEngine, GgufEngine, local_lm
from dspy_demo.lm.gguf.generation import CONTEXT_KEY, READING_KEY, Question, answer, without_oldest
from dspy_demo.lm.gguf.heard import Ended, Text
from dspy_demo.lm.gguf.line import LINE_KEY, Line, Place, close_line, ordinal
from dspy_demo.lm.gguf.memory import LOAD_KEY
from dspy_demo.lm.gguf.runtime import Load, LoadedModel, import_runtime
from dspy_demo.lm.local_models import LocalModel
from tests.lm.gguf.conftest import Notices
from tests.tiny_gguf import Size, write_tiny_gguf


def request(*texts: str, model: str = "local/tiny", **config: Any) -> lm15.Request:
    roles = ("user", "assistant")
    messages = tuple(
        lm15.Message.user(text) if roles[index % 2] == "user" else lm15.Message.assistant(text)
        for index, text in enumerate(texts)
    )
    return lm15.Request(model=model, messages=messages, system="Be brief.", config=lm15.Config(**config))


def engine(model: LocalModel, context_tokens: int = 4096) -> AsyncGgufEngine:
    return AsyncGgufEngine(model, context_tokens, 1)


def text_of(events: list[lm15.StreamEvent]) -> str:
    return "".join(event.delta.text for event in events if isinstance(event, lm15.StreamDeltaEvent))


async def test_it_streams_token_by_token_and_counts(tiny: LocalModel) -> None:
    events = [event async for event in engine(tiny).stream(request("What?", max_tokens=20, seed=1))]
    assert isinstance(events[0], lm15.StreamStartEvent)
    deltas = [event for event in events if isinstance(event, lm15.StreamDeltaEvent)]
    end = events[-1]
    assert isinstance(end, lm15.StreamEndEvent) and end.usage is not None
    assert len(deltas) > 5 and end.usage.output_tokens in range(len(deltas), 21)
    assert end.usage.input_tokens > 20
    assert end.finish_reason == "length"
    assert text_of(events).encode("utf-8", "strict")


async def test_both_engines_write_the_same(tiny: LocalModel) -> None:
    asked = request("What?", max_tokens=20, seed=3, temperature=0.0)
    whole = await engine(tiny).complete(asked)
    assert GgufEngine(tiny, 4096, 1).complete(asked).message.text == whole.message.text
    assert whole.usage.output_tokens > 0


async def test_the_models_own_template_is_used(tiny: LocalModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each message of this template takes some tokens of its own beside its text."""
    short = await engine(tiny).complete(request("a", max_tokens=1))
    longer = await engine(tiny).complete(request("a", "b", "c", max_tokens=1))
    assert longer.usage.input_tokens - short.usage.input_tokens > 2 * len("assistant")


class Counted:
    """Counts the chunks of text of each attempt, from outside."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.chunks = 0
        self.ended = threading.Event()
        hear, generate = generation._Attempt.hear, generation.LoadedModel.generate

        def counting(attempt: Any, chunk: Any) -> bool:
            self.chunks += any(choice["delta"].get("content") for choice in chunk.get("choices", ()))
            return hear(attempt, chunk)

        def generating(model: Any, *arguments: Any) -> None:
            generate(model, *arguments)
            self.ended.set()

        monkeypatch.setattr(generation._Attempt, "hear", counting)
        monkeypatch.setattr(generation.LoadedModel, "generate", generating)


@pytest.mark.parametrize("how", ["cancelled", "closed", "closed in a thread"])
async def test_stop_ends_the_generation(tiny: LocalModel, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    counted = Counted(monkeypatch)
    asked = request("What?", max_tokens=2000)
    if how == "closed in a thread":
        stream = GgufEngine(tiny, 4096, 1).stream(asked)
        next(event for event in stream if isinstance(event, lm15.StreamDeltaEvent))
        stream.close()
    else:
        first = asyncio.Event()
        reading = asyncio.create_task(read(engine(tiny).stream(asked), first, stop=how == "closed"))
        await first.wait()
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
    assert await asyncio.to_thread(counted.ended.wait, 20)
    assert counted.chunks < 1000


async def read(events: AsyncIterator[lm15.StreamEvent], first: asyncio.Event, *, stop: bool) -> None:
    async with aclosing(events):  # type: ignore[type-var]
        async for event in events:
            if isinstance(event, lm15.StreamDeltaEvent):
                first.set()
                if stop:
                    return


def test_not_one_more_token_is_generated_after_a_stop(
    tiny: LocalModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted, told = Counted(monkeypatch), list[Any]()
    question = Question(({"role": "user", "content": "x"},), None, 500, {})
    model = LoadedModel(Load(tiny.path, 4096, 1))
    answer(model, 4096, question, told.append, lambda: sum(isinstance(item, Text) for item in told) == 5)
    assert counted.chunks == 6  # the one that comes after the stop is not told
    assert not isinstance(told[-1], Ended)


def test_a_stop_while_the_chat_is_read_does_not_wait_for_its_end(
    tiny: LocalModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []
    question = Question(({"role": "user", "content": "word " * 600},), None, 5, {})
    model = LoadedModel(Load(tiny.path, 8192, 1))
    answer(model, 8192, question, told.append, lambda: len(told) >= 2)
    assert [item.state for item in told] == ["pending", "pending"]


async def test_what_does_not_fit_is_left_out_and_said(tiny: LocalModel, notices: Notices) -> None:
    old = [f"{word} " * 60 for word in ("first", "answer", "second", "answer", "third", "answer")]
    reply = await engine(tiny, 1024).complete(request(*old, "and now?", max_tokens=200))
    assert reply.usage.input_tokens + 200 <= 1024
    [(state, text)] = notices.of(CONTEXT_KEY)
    assert state == "info" and "1,024 tokens" in text and "oldest" in text


async def test_a_question_that_never_fits_is_our_error(tiny: LocalModel) -> None:
    lm = local_lm(tiny, context_tokens=512, threads=1, cache=False)
    with pytest.raises(dspy.ContextWindowExceededError) as caught:
        await lm.acall("word " * 2000)
    fault = fault_from(caught.value)
    assert fault is not None and "too long" in fault.public_message


def test_the_oldest_turns_go_first_and_the_system_stays() -> None:
    def message(role: str, text: str) -> dict[str, str]:
        return {"role": role, "content": text}

    system, last = message("system", "s"), message("user", "now")
    turns = [message(role, f"{role}{n}") for n in (1, 2, 3) for role in ("user", "assistant")]
    assert without_oldest([system, *turns, last], 0.9) == [system, *turns[2:], last]
    assert without_oldest([system, *turns, last], 0.1) == [system, last]
    assert without_oldest([last], 0.1) == [last]
    assert without_oldest([*turns[:2], last], 0.5) == [last]


async def test_loading_and_its_memory_are_shown_once(tiny: LocalModel, notices: Notices) -> None:
    close_line()
    await engine(tiny).complete(request("a", max_tokens=1))
    await engine(tiny).complete(request("b", max_tokens=1))
    (before, loading), (after, loaded) = notices.of(LOAD_KEY)
    assert (before, after) == ("pending", "done")
    assert "Loading Tiny: needs about" in loading and "GB are free" in loading
    assert "Loaded Tiny in" in loaded


@pytest.mark.parametrize("end", ["never", "at once"])
async def test_reading_a_long_chat_is_shown(tmp_path: Path, notices: Notices, end: Any) -> None:
    model = LocalModel("m", write_tiny_gguf(tmp_path / "m.gguf", Size(end=end)))
    reply = await engine(model).complete(request("word " * 200, max_tokens=9))
    states = [state for state, _ in notices.of(READING_KEY)]
    assert states[-1] == "done" and "pending" in states
    assert bool(reply.message.text) == (end == "never")


async def test_another_model_takes_the_place_of_the_first(
    tiny: LocalModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[str] = []

    class Loaded(memory.LoadedModel):
        def __init__(self, load: Any) -> None:
            loads.append(f"+{load.path.stem}")
            self.stem = load.path.stem
            super().__init__(load)

        def close(self) -> None:
            loads.append(f"-{self.stem}")
            super().close()

    monkeypatch.setattr(memory, "LoadedModel", Loaded)
    close_line()
    path = write_tiny_gguf(tmp_path / "other.gguf", Size(layers=1, context=600))
    other = LocalModel("other", path, title="Other")
    for model in (tiny, tiny, other, other, tiny):
        await engine(model).complete(request("a", max_tokens=1))
    close_line()
    assert loads == ["+tiny", "-tiny", "+other", "-other", "+tiny", "-tiny"]


async def test_a_context_is_never_longer_than_the_model_was_made_for(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "short.gguf", Size(layers=1, context=600))
    assert engine(LocalModel("short", path), 4096)._load().context_tokens == 600


async def test_several_chats_wait_in_line_in_the_order_they_came(tiny: LocalModel) -> None:
    done: list[int] = []
    heard: dict[int, Notices] = {}

    async def chat(number: int) -> None:
        from dspy_demo.lm.chat_lm import call_observer

        heard[number] = Notices()
        call_observer.set(heard[number])
        await engine(tiny).complete(request(f"chat {number}", max_tokens=100 if number == 0 else 4))
        done.append(number)

    chats = []
    for number in range(4):
        chats.append(asyncio.create_task(chat(number)))
        await asyncio.sleep(0)
    await asyncio.gather(*chats)
    assert done == [0, 1, 2, 3]
    assert heard[0].of(LINE_KEY) == []
    last = [text.split()[0] for _, text in heard[3].of(LINE_KEY)]
    assert list(dict.fromkeys(last)) == ["3rd", "2nd", "1st", "Waited"]


def test_who_is_about_to_be_served_is_nobody_to_wait_for(tiny: LocalModel) -> None:
    """The thread needs a moment to wake up for the first."""
    line = Line()
    line._thread = threading.current_thread()
    told: list[list[Any]] = [[], [], []]
    load = Load(tiny.path, 4096, 1)
    places = [Place(load, "Tiny", Question((), None, 1, {}), said.append) for said in told]
    for place in places:
        line.enter(place)
    line.leave(places[1])
    texts = [[notice.text.split()[0] for notice in said] for said in told]
    assert texts == [[], ["1st"], ["2nd", "1st"]]


async def test_who_leaves_the_line_lets_the_others_move_up(tiny: LocalModel) -> None:
    asked = engine(tiny)
    first = asyncio.create_task(asked.complete(request("a", max_tokens=1500)))
    await asyncio.sleep(0.05)
    second = asyncio.create_task(asked.complete(request("b", max_tokens=1)))
    third = asyncio.create_task(asked.complete(request("c", max_tokens=1)))
    await asyncio.sleep(0.05)
    second.cancel()
    first.cancel()
    assert (await third).usage.output_tokens == 1
    await asyncio.gather(first, second, return_exceptions=True)


async def test_waiting_is_not_silence(
    tiny: LocalModel, notices: Notices, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dspy_demo.lm.gguf import engine as module

    monkeypatch.setattr(module, "STILL_WAITING_S", 0.05)
    first = asyncio.create_task(engine(tiny).complete(request("a", max_tokens=1500)))
    await asyncio.sleep(0)
    second = asyncio.create_task(engine(tiny).complete(request("b", max_tokens=1)))
    while not any("in line" in text and "s)" in text for _, text in notices.of(LINE_KEY)):
        await asyncio.sleep(0.02)
    first.cancel()
    await second
    await asyncio.gather(first, return_exceptions=True)


def test_a_closed_line_can_be_entered_again(tiny: LocalModel) -> None:
    asked = GgufEngine(tiny, 4096, 1)
    for _ in range(2):
        assert asked.complete(request("a", max_tokens=1)).usage.output_tokens == 1
        close_line()
        assert not [thread for thread in threading.enumerate() if thread.name == "local-model"]
    Line().close()


def test_no_port_is_opened_and_no_socket_is_left(tiny: LocalModel) -> None:
    close_line()
    before = listening()
    GgufEngine(tiny, 4096, 1).complete(request("a", max_tokens=1))
    assert listening() <= before
    named = [line.split()[-1] for line in Path("/proc/net/unix").read_text().splitlines() if "llm-" in line]
    assert named and not any(Path(name).exists() for name in named)


def listening() -> set[str]:
    """The sockets of this process, by their numbers, that take connections from a network."""
    own = {
        link.readlink().name.removeprefix("socket:[").removesuffix("]")
        for link in Path("/proc/self/fd").iterdir()
        if link.is_symlink() and str(link.readlink()).startswith("socket:")
    }
    lines = [
        line.split()
        for name in ("tcp", "tcp6")
        for line in Path("/proc/net", name).read_text().splitlines()[1:]
    ]
    return own & {words[9] for words in lines if words[3] == "0A"}


def test_engines_are_plain_data(tiny: LocalModel) -> None:
    lm = local_lm(tiny, max_tokens=20)
    copied = pickle.loads(pickle.dumps(lm))
    assert copied.engine == GgufEngine(tiny, 8192, None)
    again = dspy.LM.load_state(lm.dump_state(), allow_custom_lm_class=True)
    assert again.engine == lm.engine and again.kwargs["max_tokens"] == 20


@pytest.mark.parametrize("damage", ["cut", "gone", "text"])
async def test_a_file_that_cannot_be_loaded_is_our_error(
    tiny: LocalModel, tmp_path: Path, damage: str
) -> None:
    path = tmp_path / "bad.gguf"
    if damage != "gone":
        path.write_bytes(tiny.path.read_bytes()[:60_000] if damage == "cut" else b"GGUF no, a text")
    lm = local_lm(LocalModel("bad", path, title="Bad", sha256="0" * 64), cache=False)
    with pytest.raises(dspy.LMError) as caught:
        await lm.acall("What?")
    fault = fault_from(caught.value)
    assert isinstance(fault, ModelSetupError)
    assert "damaged" in fault.public_message or "not on this machine" in fault.public_message


async def test_too_little_memory_is_said_before_loading(
    tiny: LocalModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    close_line()
    monkeypatch.setattr(memory, "free_bytes", lambda: 10_000_000)
    with pytest.raises(ModelSetupError, match=r"Tiny needs about 0\.\d GB of memory, 0\.0 GB are free"):
        await engine(tiny).complete(request("a", max_tokens=1))


@pytest.mark.parametrize(
    ("failure", "sentence"),
    [
        (ModuleNotFoundError("No module named 'xllamacpp'"), "requirements-local.txt"),
        (ImportError("libgomp.so.1: cannot open shared object file"), "libgomp1"),
        (ImportError("undefined symbol"), "does not work on this system"),
    ],
)
def test_without_the_runtime_one_sentence_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, failure: ImportError, sentence: str
) -> None:
    real = builtins.__import__

    def refuse(name: str, *rest: Any) -> Any:
        if name == "xllamacpp":
            raise failure
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ModelSetupError, match=sentence):
        import_runtime()


def test_ordinals() -> None:
    assert [ordinal(number) for number in (1, 2, 3, 4, 11, 12, 13, 21, 112)] == [
        "1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "112th",
    ]  # fmt: skip
