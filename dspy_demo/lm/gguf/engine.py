"""The DSPy engines of a model file. They hold plain data only; the model itself belongs to the line.

`local_lm` makes a `dspy.LM` that behaves like any other: it streams, counts usage, stops when cancelled, and
can be saved. Notices (a place in the line, loading, turns that were left out) go to the turn's
`CallObserver`.
"""

from __future__ import annotations

import asyncio
import queue
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import dspy
from dspy import lm15

from dspy_demo.errors import ModelSetupError
from dspy_demo.lm.chat_lm import call_observer
from dspy_demo.lm.gguf.generation import Message, Question
from dspy_demo.lm.gguf.heard import Ended, Failed, Heard, Notice, Text, TooLong
from dspy_demo.lm.gguf.identity import missing
from dspy_demo.lm.gguf.line import Place, the_line
from dspy_demo.lm.gguf.runtime import Load
from dspy_demo.lm.gguf.shape import default_threads, read_shape
from dspy_demo.lm.grammar import asked_format
from dspy_demo.lm.local_models import LocalModel

#: A notice is repeated while nothing changes, so that waiting is not taken for silence.
STILL_WAITING_S = 10.0
DEFAULT_CONTEXT_TOKENS = 8192


def local_lm(
    model: LocalModel,
    *,
    context_tokens: int = DEFAULT_CONTEXT_TOKENS,
    threads: int | None = None,
    kind: type[dspy.LM] = dspy.LM,
    **options: Any,
) -> dspy.LM:
    """A model file as a `dspy.LM`.

    Args:
        context_tokens: The longest chat with its reply; less where the model was trained for less.
        threads: How many threads compute; all cores but one if None.
        kind: The class, for a `ChatLM`.
        options: Other settings of it, for example ``max_tokens``.
    """
    return kind(
        model.model,
        engine=GgufEngine(model, context_tokens, threads),
        async_engine=AsyncGgufEngine(model, context_tokens, threads),
        **options,
    )


@dataclass(frozen=True, slots=True)
class _Gguf:
    """What both engines share: which file, how it is loaded, and what is asked.

    Attributes:
        file: The model file, with the repository, revision and checksum that name it elsewhere.
    """

    file: LocalModel
    context_tokens: int = DEFAULT_CONTEXT_TOKENS
    threads: int | None = None

    def dump_state(self) -> dict[str, Any]:
        file = {**asdict(self.file), "path": str(self.file.path)}
        return {"file": file, "context_tokens": self.context_tokens, "threads": self.threads}

    @classmethod
    def load_state(cls, state: Mapping[str, Any]) -> Self:
        file = LocalModel(**{**state["file"], "path": Path(state["file"]["path"])})
        return cls(file, int(state["context_tokens"]), state["threads"])

    def _load(self) -> Load:
        if not self.file.path.is_file():
            raise ModelSetupError(missing(asdict(self.file)))
        trained = read_shape(self.file.path).context_tokens or self.context_tokens
        return Load(self.file.path, min(self.context_tokens, trained), self.threads or default_threads())

    def _place(self, request: lm15.Request, tell: Callable[[Heard], None]) -> Place:
        messages = _messages(request)
        config = request.config
        sampling = {
            name: value
            for name in ("temperature", "top_p", "top_k", "seed", "frequency_penalty", "presence_penalty")
            if (value := getattr(config, name)) is not None
        }
        if config.stop:
            sampling["stop"] = list(config.stop)
        question = Question(messages, asked_format(messages[-1]["content"]), config.max_tokens, sampling)
        return Place(self._load(), self.file.title or self.file.name, question, tell)


class GgufEngine(_Gguf):
    """The synchronous engine. It stops where its stream is closed."""

    def complete(self, request: lm15.Request) -> lm15.Response:
        return _response(request.model, list(self.stream(request)))

    def stream(self, request: lm15.Request) -> Iterator[lm15.StreamEvent]:
        heard: queue.SimpleQueue[Heard] = queue.SimpleQueue()
        yield lm15.StreamStartEvent(model=request.model)
        with _in_line(self._place(request, heard.put)):
            reader = _Reader()
            while not reader.ended:
                try:
                    item = heard.get(timeout=STILL_WAITING_S)
                except queue.Empty:
                    reader.still_waiting()
                    continue
                yield from reader.read(item)

    def close(self) -> None:
        """Nothing is open: the model stays in memory for the next question."""


class AsyncGgufEngine(_Gguf):
    """The asynchronous engine. A cancellation ends the generation at the next token."""

    async def complete(self, request: lm15.Request) -> lm15.Response:
        return _response(request.model, [event async for event in self.stream(request)])

    async def stream(self, request: lm15.Request) -> AsyncIterator[lm15.StreamEvent]:
        loop, heard = asyncio.get_running_loop(), asyncio.Queue[Heard]()

        def tell(item: Heard) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(heard.put_nowait, item)

        yield lm15.StreamStartEvent(model=request.model)
        with _in_line(self._place(request, tell)):
            reader = _Reader()
            while not reader.ended:
                try:
                    async with asyncio.timeout(STILL_WAITING_S):
                        item = await heard.get()
                except TimeoutError:
                    reader.still_waiting()
                    continue
                for event in reader.read(item):
                    yield event

    async def aclose(self) -> None:
        """Nothing is open: the model stays in memory for the next question."""


@contextmanager
def _in_line(place: Place) -> Iterator[None]:
    line = the_line()
    line.enter(place)
    try:
        yield
    finally:
        line.leave(place)


class _Reader:
    """Turns what is heard into DSPy's events, and passes notices on."""

    def __init__(self) -> None:
        self.ended = False
        self._pending: Notice | None = None
        self._since = 0.0

    def read(self, item: Heard) -> Iterator[lm15.StreamEvent]:
        match item:
            case Notice():
                self._notice(item)
            case Text(text):
                self._pending = None
                yield lm15.StreamDeltaEvent(lm15.TextDelta(text))
            case Ended():
                self.ended = True
                yield lm15.StreamEndEvent(
                    finish_reason="length" if item.cut else "stop",
                    usage=lm15.Usage(
                        input_tokens=item.read_tokens,
                        output_tokens=item.written_tokens,
                        cache_read_tokens=item.cached_tokens,
                    ),
                )
            case TooLong(tokens, context_tokens):
                raise lm15.ContextLengthError(f"{tokens} tokens do not fit into {context_tokens}")
            case Failed(error):
                raise error

    def still_waiting(self) -> None:
        """Say again what is being waited for. A reply that has begun and is silent is left to its limit."""
        if self._pending is not None:
            waited_s = time.monotonic() - self._since
            _tell(replace(self._pending, text=f"{self._pending.text} ({waited_s:.0f} s)"))

    def _notice(self, notice: Notice) -> None:
        self._pending = notice if notice.state == "pending" else None
        self._since = time.monotonic()
        _tell(notice)


def _tell(notice: Notice) -> None:
    observer = call_observer.get()
    if observer:
        observer.call_notice(notice.text, notice.state, notice.key)


def _messages(request: lm15.Request) -> tuple[Message, ...]:
    """OpenAI-style messages. Only text is kept: these models read nothing else."""
    system = request.system if isinstance(request.system, str) else ""
    if request.system and not system:
        system = "".join(getattr(part, "text", "") for part in request.system)
    head = [{"role": "system", "content": system}] if system else []
    return (*head, *({"role": message.role, "content": message.text or ""} for message in request.messages))


def _response(model: str, events: list[lm15.StreamEvent]) -> lm15.Response:
    end = events[-1]
    text = "".join(event.delta.text for event in events if isinstance(event, lm15.StreamDeltaEvent))
    return lm15.Response(
        id=None,
        model=model,
        message=lm15.Message.assistant(text),
        finish_reason=end.finish_reason,
        usage=end.usage,
    )
