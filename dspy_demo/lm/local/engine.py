"""The DSPy engines of a model file: a request becomes a job in a queue, and the job's events DSPy's.

Engines hold plain data only; the one model in memory belongs to the process's `JobQueue`.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import dspy
from dspy import lm15

from dspy_demo.adapters import adapter_name, reply_grammar
from dspy_demo.dspy_bridge import calling_signature
from dspy_demo.errors import ModelSetupError, UpstreamError
from dspy_demo.lm.chat_lm import call_observer
from dspy_demo.lm.local.files import LocalModel, missing, read_header
from dspy_demo.lm.local.grammar import Grammar
from dspy_demo.lm.local.runtime import Chunk, Load, LoadedModel, Notice, jobs

log = logging.getLogger(__name__)

#: A notice is repeated while nothing changes, so that waiting is not taken for silence.
STILL_WAITING_S = 10.0
DEFAULT_CONTEXT_TOKENS = 8192
#: The reply's limit where the user set none. Small models repeat themselves rather than stop.
REPLY_TOKENS = 1024
REPEAT_PENALTY = 1.1
#: A chat of more is told while it is read, which takes seconds.
LONG_TOKENS = 256
SAMPLING = ("temperature", "top_p", "top_k", "seed", "frequency_penalty", "presence_penalty")

#: What a job emits: at last a `StreamEndEvent` or an error.
Event: TypeAlias = "Notice | lm15.StreamEvent | Exception"


def local_lm(
    model: LocalModel,
    *,
    context_tokens: int = DEFAULT_CONTEXT_TOKENS,
    kind: type[dspy.LM] = dspy.LM,
    **options: Any,
) -> dspy.LM:
    """A model file as a `dspy.LM`, or a `ChatLM` where that is the `kind`, with its other settings."""
    engine = AsyncGgufEngine(model, context_tokens)
    return kind(model.model, engine=GgufEngine(engine), async_engine=engine, **options)


@dataclass(frozen=True, slots=True)
class AsyncGgufEngine:
    """The asynchronous engine. A cancellation ends the generation at the next token."""

    file: LocalModel
    context_tokens: int = (
        DEFAULT_CONTEXT_TOKENS  # of a chat with its reply, or what the model was trained for
    )

    async def complete(self, request: lm15.Request) -> lm15.Response:
        events = [event async for event in self.stream(request)]
        texts = [event.delta.text for event in events if isinstance(event, lm15.StreamDeltaEvent)]
        return lm15.Response(
            id=None,
            model=request.model,
            message=lm15.Message.assistant("".join(texts)),
            finish_reason=events[-1].finish_reason,
            usage=events[-1].usage,
        )

    async def stream(self, request: lm15.Request) -> AsyncIterator[lm15.StreamEvent]:
        """The events of a reply. Its notices go to the turn, a pending one again where it takes long."""
        loop, events = asyncio.get_running_loop(), asyncio.Queue[Event]()

        def emit(event: Event) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(events.put_nowait, event)

        yield lm15.StreamStartEvent(model=request.model)
        job = self._job(request, emit)
        jobs.submit(job)
        pending: Notice | None = None
        try:
            while True:
                try:
                    async with asyncio.timeout(STILL_WAITING_S):
                        event = await events.get()
                except TimeoutError:  # a reply that has begun and is silent is left to its limit
                    _notify(pending)
                    continue
                if isinstance(event, Exception):
                    raise event
                if isinstance(event, Notice):
                    pending = event if event.state == "pending" else None
                    _notify(event)
                    continue
                yield event
                if isinstance(event, lm15.StreamEndEvent):
                    return
        finally:
            job.stopped.set()

    def _job(self, request: lm15.Request, emit: Callable[[Event], None]) -> Job:
        if not self.file.path.is_file():
            raise ModelSetupError(missing(self.file.title, self.file.sha256))
        _, trained = read_header(self.file.path)
        context_tokens = min(self.context_tokens, trained or self.context_tokens)
        messages, config = _messages(request), request.config
        options = {name: getattr(config, name) for name in SAMPLING if getattr(config, name) is not None}
        options |= {"stop": list(config.stop)} if config.stop else {}
        tokens = min(config.max_tokens or REPLY_TOKENS, context_tokens // 2)
        grammar = _grammar(messages[-1]["content"], tokens)
        load = Load(self.file.path, self.file.title, context_tokens)
        return Job(load, messages, tokens, grammar=grammar, options=options, emit=emit)

    async def aclose(self) -> None:
        """Nothing is open: the model stays in memory for the next question."""


@dataclass(frozen=True, slots=True)
class GgufEngine:
    """The synchronous engine: the asynchronous one in a thread of its own."""

    engine: AsyncGgufEngine

    def complete(self, request: lm15.Request) -> lm15.Response:
        with ThreadPoolExecutor(1) as thread:
            asked = self.engine.complete(request)
            return thread.submit(copy_context().run, asyncio.run, asked).result()


def _notify(notice: Notice | None) -> None:
    if notice and (observer := call_observer.get()):
        observer.call_notice(notice.text, notice.state, notice.key)


def _grammar(last_message: str, max_tokens: int) -> Grammar | None:
    """The grammar of the reply to a request that ends with `last_message`.

    Only where the request has the sentence with which an adapter asks for the fields there is one: a program
    that calls the model by itself gets none. ChatAdapter asks again by a JSONAdapter.
    """
    signature = calling_signature()
    for adapter in (dspy.settings.adapter or dspy.ChatAdapter(), dspy.JSONAdapter()):
        name = adapter_name(adapter)
        if signature and name and adapter.user_message_output_requirements(signature) in last_message:
            grammar: Grammar | None = reply_grammar(name, signature, max_tokens)
            return grammar
    return None


def _messages(request: lm15.Request) -> list[dict[str, str]]:
    """OpenAI-style messages. Only text is kept: these models read nothing else."""
    system = request.system or ""
    if not isinstance(system, str):
        system = "".join(getattr(part, "text", "") for part in system)
    head = [{"role": "system", "content": system}] if system else []
    return head + [{"role": message.role, "content": message.text or ""} for message in request.messages]


@dataclass(eq=False)
class Job:
    """A request to a model, and who waits for its events.

    Attributes:
        grammar: Holds the reply in its format, where that is known.
        options: What llama.cpp takes as it is (``temperature``, ``top_p``, ``stop``, ...).
        emit: Called in the queue's thread; must not block.
        waited: Others were before it in the queue.
    """

    load: Load
    messages: list[dict[str, str]]
    reply_tokens: int
    grammar: Grammar | None
    options: dict[str, Any]
    emit: Callable[[Event], None]
    stopped: threading.Event = field(default_factory=threading.Event)
    waited: bool = False
    _too_long: bool = False
    _prompt_tokens: int = 0
    _written: int = 0
    _reason: str = ""

    def run(self, model: LoadedModel) -> None:
        """Generate the reply in this thread; where the chat is too long, without its oldest turns."""
        messages, context_tokens = self.messages, self.load.context_tokens
        while not self.stopped.is_set():
            self._too_long = False
            model.generate(self._request(messages), self.receive)
            if not self._too_long:
                self._end()
                return
            shorter = without_oldest(messages, (context_tokens - self.reply_tokens) / self._prompt_tokens)
            if len(shorter) == len(messages):
                error = f"{self._prompt_tokens} tokens do not fit into {context_tokens}"
                self.emit(lm15.ContextLengthError(error))
                return
            messages = shorter
            text = (
                f"The chat is longer than this model can read ({context_tokens:,} tokens), so its oldest "
                f"{len(self.messages) - len(messages)} messages were left out"
            )
            self.emit(Notice(text, "info", "local-context"))

    def _request(self, messages: list[dict[str, str]]) -> dict[str, Any]:
        grammar = self.grammar
        return {
            "messages": messages,
            "max_tokens": grammar.most_tokens if grammar else self.reply_tokens,
            "repeat_penalty": REPEAT_PENALTY,
            "return_progress": True,
            "stream_options": {"include_usage": True},
            "chat_template_kwargs": {"enable_thinking": False},
            **({"grammar": grammar.text} if grammar else {}),
            **self.options,
        }

    def receive(self, chunk: Chunk) -> bool:
        """Take a chunk; True ends the generation."""
        if self.stopped.is_set():
            return True
        match chunk:
            case {"error": {"type": "exceed_context_size_error", "n_prompt_tokens": total}}:
                self._prompt_tokens, self._too_long = int(total), True
            case {"error": error}:
                log.warning("the runtime refused a request", extra={"error": error.get("message")})
                raise UpstreamError("The model on this machine failed to answer. Try again.")
            case {"prompt_progress": {"total": total, "processed": processed}}:
                self._progressed(int(total), int(processed))
            case _:
                self._written = (chunk.get("usage") or {}).get("completion_tokens", self._written)
                for choice in chunk["choices"]:
                    if text := choice["delta"].get("content"):
                        self.emit(lm15.StreamDeltaEvent(lm15.TextDelta(text)))
                    self._reason = choice["finish_reason"] or self._reason
        return self._too_long

    def _progressed(self, total: int, processed: int) -> None:
        """The chat is being read. How long it is, is known before its first token is."""
        self._prompt_tokens = total
        self._too_long = total > self.load.context_tokens - self.reply_tokens
        if not self._too_long and total > LONG_TOKENS:
            text = f"Reading the chat: {processed:,} of {total:,} tokens"
            self.emit(Notice(text, "pending" if processed < total else "done", "local-reading"))

    def _end(self) -> None:
        cut = self._reason == "length" or (self.grammar and 0 < self.grammar.text_tokens <= self._written)
        usage = lm15.Usage(input_tokens=self._prompt_tokens, output_tokens=self._written)
        self.emit(lm15.StreamEndEvent(finish_reason="length" if cut else "stop", usage=usage))


def without_oldest(messages: list[dict[str, str]], kept: float) -> list[dict[str, str]]:
    """The messages without the oldest turns, about `kept` of their text.

    A turn is a question and its answer. What the system says and the last question always stay.
    """
    head = [message for message in messages[:1] if message["role"] == "system"]
    turns, last = messages[len(head) : -1], messages[-1:]
    too_much = (1 - kept) * sum(len(message["content"]) for message in messages)
    while turns and too_much > 0:
        size = 2 if len(turns) > 1 and turns[1]["role"] == "assistant" else 1
        too_much -= sum(len(message["content"]) for message in turns[:size])
        turns = turns[size:]
    return head + turns + last
