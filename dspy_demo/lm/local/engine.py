"""The DSPy engines of a model file: a request becomes a job in a queue, and the job's events DSPy's.

`local_lm` makes a `dspy.LM` that behaves like any other: it streams, counts usage, stops when cancelled, and
can be saved. Engines hold plain data only; the one model in memory belongs to the process's `JobQueue`.
Notices (how many are before one, loading, turns that were left out) go to the turn's `CallObserver`.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self, TypeAlias

import dspy
from dspy import lm15

from dspy_demo.adapters import adapter_name, reply_grammar
from dspy_demo.dspy_bridge import calling_signature
from dspy_demo.errors import ModelSetupError, UpstreamError
from dspy_demo.lm.chat_lm import call_observer
from dspy_demo.lm.local.files import LocalModel, missing
from dspy_demo.lm.local.runtime import Chunk, Load, LoadedModel, Notice, default_threads, jobs, read_header

log = logging.getLogger(__name__)

#: A notice is repeated while nothing changes, so that waiting is not taken for silence.
STILL_WAITING_S = 10.0
DEFAULT_CONTEXT_TOKENS = 8192
#: The reply's limit where the user set none. Small models repeat themselves rather than stop.
REPLY_TOKENS = 1024
#: A chat that leaves less room than this for the reply is too long.
REPLY_MIN_TOKENS = 128
REPEAT_PENALTY = 1.1
QUEUE_KEY, READING_KEY, CONTEXT_KEY = "local-queue", "local-reading", "local-context"
SAMPLING = ("temperature", "top_p", "top_k", "seed", "frequency_penalty", "presence_penalty")


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
    engines = (kind_(model, context_tokens, threads) for kind_ in (GgufEngine, AsyncGgufEngine))
    return kind(model.model, **dict(zip(("engine", "async_engine"), engines, strict=True)), **options)


#: What a job tells: at last a `StreamEndEvent` or an error.
Event: TypeAlias = "Notice | lm15.StreamEvent | Exception"


@dataclass(eq=False)
class Job:
    """A request to a model, and who waits for its events.

    Attributes:
        title: The model's name for people.
        messages: OpenAI-style, the system's first.
        format: The adapter's name and the signature, where they are known: then a grammar holds the reply.
        sampling: Options that llama.cpp takes as they are (``temperature``, ``top_p``, ``stop``, ...).
        emit: Called in the queue's thread; must not block.
    """

    load: Load
    title: str
    messages: list[dict[str, str]]
    format: tuple[str, type[dspy.Signature]] | None
    max_tokens: int | None
    sampling: dict[str, Any]
    emit: Callable[[Event], None]
    stopped: threading.Event = field(default_factory=threading.Event)

    def run(self, model: LoadedModel) -> None:
        """Generate the reply in this thread; where the chat is too long, without its oldest turns."""
        messages, context_tokens = self.messages, self.load.context_tokens
        reply_tokens = min(self.max_tokens or REPLY_TOKENS, context_tokens // 2)
        while not self.stopped.is_set():
            attempt = _Attempt(self, messages, reply_tokens, model.takes_grammars)
            model.generate(attempt.request, attempt.receive)
            if not attempt.too_long:
                attempt.finish()
                return
            shorter = without_oldest(messages, (context_tokens - reply_tokens) / attempt.prompt_tokens)
            if len(shorter) < len(messages):
                messages = shorter
                continue
            reply_tokens = context_tokens - attempt.prompt_tokens
            if reply_tokens < REPLY_MIN_TOKENS:
                error = f"{attempt.prompt_tokens} tokens do not fit into {context_tokens}"
                self.emit(lm15.ContextLengthError(error))
                return


class _Attempt:
    """One request to the runtime.

    Attributes:
        too_long: The chat and its reply do not fit into the context. Nothing was generated.
    """

    def __init__(
        self, job: Job, messages: list[dict[str, str]], reply_tokens: int, takes_grammars: bool
    ) -> None:
        self.too_long, self.prompt_tokens = False, 0
        self._job, self._left_out = job, len(job.messages) - len(messages)
        self._reply_tokens = reply_tokens
        self._reason, self._usage, self._reading = "", dict[str, Any](), False
        self.request: dict[str, Any] = {
            "messages": messages,
            "max_tokens": reply_tokens,
            "repeat_penalty": REPEAT_PENALTY,
            "return_progress": True,
            "stream_options": {"include_usage": True},
            "chat_template_kwargs": {"enable_thinking": False},
            **job.sampling,
        }
        self._grammar = reply_grammar(*job.format, reply_tokens) if job.format and takes_grammars else None
        if self._grammar:
            self.request |= {"grammar": self._grammar.text, "max_tokens": self._grammar.most_tokens}

    def receive(self, chunk: Chunk) -> bool:
        """Take a chunk; True ends the generation."""
        if "error" in chunk:
            self._refused(chunk["error"])
            return True
        self._usage = chunk.get("usage") or self._usage
        if self._job.stopped.is_set():
            return True
        if progress := chunk.get("prompt_progress"):
            return self._progressed(int(progress["total"]), int(progress["processed"]))
        for choice in chunk["choices"]:
            if text := choice["delta"].get("content"):
                self._has_read()
                self._job.emit(lm15.StreamDeltaEvent(lm15.TextDelta(text)))
            self._reason = choice["finish_reason"] or self._reason
        return False

    def finish(self) -> None:
        """Tell the end."""
        if self._job.stopped.is_set():
            return
        self._has_read()  # also where the reply has no text
        written = int(self._usage.get("completion_tokens", 0))
        cut = self._reason == "length" or (self._grammar and 0 < self._grammar.text_tokens <= written)
        details = self._usage.get("prompt_tokens_details") or {}
        usage = lm15.Usage(
            input_tokens=int(self._usage.get("prompt_tokens", self.prompt_tokens)),
            output_tokens=written,
            cache_read_tokens=int(details.get("cached_tokens", 0)),
        )
        self._job.emit(lm15.StreamEndEvent(finish_reason="length" if cut else "stop", usage=usage))

    def _has_read(self) -> None:
        if self._reading:
            self._reading = False
            self._job.emit(Notice(f"Read the chat: {self.prompt_tokens:,} tokens", "done", READING_KEY))

    def _progressed(self, total: int, processed: int) -> bool:
        """The chat is being read. How long it is, is known before its first token is."""
        self.prompt_tokens = total
        context_tokens = self._job.load.context_tokens
        if total > context_tokens - self._reply_tokens:
            self.too_long = True
            return True
        if self._left_out:
            text = (
                f"The chat is longer than this model can read ({context_tokens:,} tokens), so its oldest "
                f"{self._left_out} messages were left out"
            )
            self._job.emit(Notice(text, "info", CONTEXT_KEY))
            self._left_out = 0
        if 0 < processed < total:
            self._reading = True
            text = f"Reading the chat: {processed:,} of {total:,} tokens"
            self._job.emit(Notice(text, "pending", READING_KEY))
        return False

    def _refused(self, error: dict[str, Any]) -> None:
        if error.get("type") != "exceed_context_size_error":
            log.warning("the runtime refused a request", extra={"error": error.get("message")})
            raise UpstreamError("The model on this machine failed to answer. Try again.")
        self.prompt_tokens, self.too_long = int(error["n_prompt_tokens"]), True


def without_oldest(messages: list[dict[str, str]], kept: float) -> list[dict[str, str]]:
    """The messages without the oldest turns, about `kept` of their text; the last question always stays.

    A turn is a question and its answer. What the system says stays too.
    """
    head = [message for message in messages[:1] if message["role"] == "system"]
    turns, last = messages[len(head) : -1], messages[-1:]
    too_much = (1 - kept) * sum(len(message["content"]) for message in messages)
    while turns and too_much > 0:
        size = 2 if len(turns) > 1 and turns[1]["role"] == "assistant" else 1
        too_much -= sum(len(message["content"]) for message in turns[:size])
        turns = turns[size:]
    return head + turns + last


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

    def _job(self, request: lm15.Request, emit: Callable[[Event], None]) -> Job:
        if not self.file.path.is_file():
            raise ModelSetupError(missing(asdict(self.file)))
        trained = read_header(self.file.path).context_tokens or self.context_tokens
        load = Load(self.file.path, min(self.context_tokens, trained), self.threads or default_threads())
        messages, config = _messages(request), request.config
        sampling = {name: getattr(config, name) for name in SAMPLING if getattr(config, name) is not None}
        if config.stop:
            sampling["stop"] = list(config.stop)
        title = self.file.title or self.file.name
        format_ = _asked_format(messages[-1]["content"])
        return Job(load, title, messages, format_, config.max_tokens, sampling, emit)


class GgufEngine(_Gguf):
    """The synchronous engine. It stops where its stream is closed."""

    def complete(self, request: lm15.Request) -> lm15.Response:
        return _response(request.model, list(self.stream(request)))

    def stream(self, request: lm15.Request) -> Iterator[lm15.StreamEvent]:
        events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        yield lm15.StreamStartEvent(model=request.model)
        reader = _Reader(self._job(request, events.put))
        try:
            while not reader.ended:
                try:
                    yield from reader.read(events.get(timeout=STILL_WAITING_S))
                except queue.Empty:
                    reader.still_waiting()
        finally:
            reader.close()

    def close(self) -> None:
        """Nothing is open: the model stays in memory for the next question."""


class AsyncGgufEngine(_Gguf):
    """The asynchronous engine. A cancellation ends the generation at the next token."""

    async def complete(self, request: lm15.Request) -> lm15.Response:
        return _response(request.model, [event async for event in self.stream(request)])

    async def stream(self, request: lm15.Request) -> AsyncIterator[lm15.StreamEvent]:
        loop, events = asyncio.get_running_loop(), asyncio.Queue[Event]()

        def emit(event: Event) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(events.put_nowait, event)

        yield lm15.StreamStartEvent(model=request.model)
        reader = _Reader(self._job(request, emit))
        try:
            while not reader.ended:
                try:
                    async with asyncio.timeout(STILL_WAITING_S):
                        event = await events.get()
                except TimeoutError:
                    reader.still_waiting()
                    continue
                for made in reader.read(event):
                    yield made
        finally:
            reader.close()

    async def aclose(self) -> None:
        """Nothing is open: the model stays in memory for the next question."""


class _Reader:
    """A job as its engine sees it: in the queue as long as this is open, its notices passed on."""

    def __init__(self, job: Job) -> None:
        self.ended = False
        self._job, self._since = job, time.monotonic()
        self._pending: Notice | None = None
        self._queued = False
        jobs.submit(job)
        self._tell_place()

    def close(self) -> None:
        self._job.stopped.set()

    def read(self, event: Event) -> Iterator[lm15.StreamEvent]:
        if self._queued:
            self._queued = False
            waited_s = time.monotonic() - self._since
            _notify(Notice(f"Waited {waited_s:.0f} s for the model on this machine", "done", QUEUE_KEY))
        match event:
            case Notice():
                self._pending, self._since = event if event.state == "pending" else None, time.monotonic()
                _notify(event)
            case Exception():
                raise event
            case _:
                self._pending = None
                self.ended = isinstance(event, lm15.StreamEndEvent)
                yield event

    def still_waiting(self) -> None:
        """Say again what is being waited for. A reply that has begun and is silent is left to its limit."""
        waited = f" ({time.monotonic() - self._since:.0f} s)"
        if self._queued:
            self._tell_place(waited)
        elif self._pending is not None:
            _notify(Notice(self._pending.text + waited, "pending", self._pending.key))

    def _tell_place(self, waited: str = "") -> None:
        before = jobs.before(self._job)
        if before or self._queued:
            self._queued = True
            _notify(
                Notice(f"{before} before you for the model on this machine{waited}", "pending", QUEUE_KEY)
            )


def _notify(notice: Notice) -> None:
    if observer := call_observer.get():
        observer.call_notice(notice.text, notice.state, notice.key)


def _asked_format(last_message: str) -> tuple[str, type[dspy.Signature]] | None:
    """The adapter's name and the signature of a request that ends with `last_message`.

    An adapter ends its request with a sentence that names the fields. Only where that very sentence is in the
    request is the format believed: a program that calls the model by itself gets no grammar. After a reply
    that it cannot parse, ChatAdapter asks again by a JSONAdapter.
    """
    signature = calling_signature()
    for adapter in (dspy.settings.adapter or dspy.ChatAdapter(), dspy.JSONAdapter()):
        name = adapter_name(adapter)
        if signature and name and adapter.user_message_output_requirements(signature) in last_message:
            return name, signature
    return None


def _messages(request: lm15.Request) -> list[dict[str, str]]:
    """OpenAI-style messages. Only text is kept: these models read nothing else."""
    system = request.system if isinstance(request.system, str) else ""
    if request.system and not system:
        system = "".join(getattr(part, "text", "") for part in request.system)
    head = [{"role": "system", "content": system}] if system else []
    return head + [{"role": message.role, "content": message.text or ""} for message in request.messages]


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
