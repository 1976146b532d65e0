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
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import dspy
from dspy import lm15

from dspy_demo.adapters import adapter_name, reply_grammar
from dspy_demo.dspy_bridge import calling_predictor
from dspy_demo.errors import ModelSetupError, UpstreamError
from dspy_demo.events import StatusState
from dspy_demo.lm.chat_lm import call_observer
from dspy_demo.lm.local.files import LocalModel, missing, read_header
from dspy_demo.lm.local.grammar import Grammar
from dspy_demo.lm.local.runtime import LoadedModel, jobs

log = logging.getLogger(__name__)

#: A notice is repeated while nothing changes, so that waiting is not taken for silence.
STILL_WAITING_S = 10.0
#: The reply's limit where the user set none. Small models repeat themselves rather than stop.
REPLY_TOKENS = 1024
REPEAT_PENALTY = 1.1
#: A chat of more is told while it is read, which takes seconds.
LONG_TOKENS = 256
SAMPLING = ("temperature", "top_p", "top_k", "seed", "frequency_penalty", "presence_penalty")


class Notice(NamedTuple):
    """What a user waits for; the same `key` is the same line. See `events.Status`."""

    text: str
    state: StatusState
    key: str


#: What a job emits: at last a `StreamEndEvent` or an error.
Event: TypeAlias = "Notice | lm15.StreamEvent | Exception"


def local_lm(
    model: LocalModel, *, context_tokens: int, kind: type[dspy.LM] = dspy.LM, **options: Any
) -> dspy.LM:
    """A model file as a `dspy.LM`, or a `ChatLM` where that is the `kind`, with its other settings."""
    engine = AsyncGgufEngine(model, context_tokens)
    return kind(model.model, engine=GgufEngine(engine), async_engine=engine, **options)


@dataclass(frozen=True, slots=True)
class AsyncGgufEngine:
    """The asynchronous engine. A cancellation ends the generation at the next token."""

    file: LocalModel
    context_tokens: int  # of a chat with its reply; never more than the model was trained for

    async def complete(self, request: lm15.Request) -> lm15.Response:
        return await lm15.amaterialize_response(self.stream(request), request)

    async def stream(self, request: lm15.Request) -> AsyncIterator[lm15.StreamEvent]:
        """The events of a reply. Its notices go to the turn, a pending one again where it takes long."""
        loop, events = asyncio.get_running_loop(), asyncio.Queue[Event]()

        def emit(event: Event) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(events.put_nowait, event)

        yield lm15.StreamStartEvent(model=request.model)
        job, notice = Job(self, request, emit), Notice("", "done", "")
        jobs.submit(job)
        try:
            while True:
                try:
                    async with asyncio.timeout(STILL_WAITING_S):
                        event = await events.get()
                except TimeoutError:  # a reply that has begun and is silent is left to its limit
                    event = notice
                if isinstance(event, Exception):
                    raise event
                if not isinstance(event, Notice):
                    yield event
                    if isinstance(event, lm15.StreamEndEvent):
                        return
                elif (observer := call_observer.get()) and (event is not notice or event.state == "pending"):
                    observer.call_notice(*event)
                    notice = event
        finally:
            job.stopped.set()

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


def _grammar(last_message: str, max_tokens: int) -> Grammar | None:
    """The grammar of the reply, where an adapter's sentence that asks for the fields is in the last message.

    A program that calls the model by itself gets none. ChatAdapter asks again by a JSONAdapter.
    """
    signature = getattr(calling_predictor(), "signature", None)
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


class Job:
    """A request to a model. `emit` gets its events in the queue's thread, and must not block."""

    def __init__(self, engine: AsyncGgufEngine, request: lm15.Request, emit: Callable[[Event], None]) -> None:
        self.file, self.emit, self.stopped = engine.file, emit, threading.Event()
        if not self.file.path.is_file():
            raise ModelSetupError(missing(self.file.title, self.file.sha256))
        _, trained = read_header(self.file.path)
        self.context_tokens = min(engine.context_tokens, trained or engine.context_tokens)
        self._messages, config = _messages(request), request.config
        self._reply_tokens = min(config.max_tokens or REPLY_TOKENS, self.context_tokens // 2)
        self._grammar = _grammar(self._messages[-1]["content"], self._reply_tokens)
        given = {name: getattr(config, name) for name in SAMPLING} | {"stop": list(config.stop or ()) or None}
        self._options = {name: value for name, value in given.items() if value is not None}
        self._too_long, self._prompt_tokens, self._written, self._reason = False, 0, 0, ""

    def tell(self, text: str, state: StatusState, key: str) -> None:
        self.emit(Notice(text, state, f"local-{key}"))

    def run(self, model: LoadedModel) -> None:
        """Generate the reply in this thread; where the chat is too long, without its oldest turns."""
        messages, room = self._messages, self.context_tokens - self._reply_tokens
        while not self.stopped.is_set():
            self._too_long = False
            model.generate(self._request(messages), self.receive)
            if not self._too_long:
                self._end()
                return
            shorter = without_oldest(messages, room / self._prompt_tokens)
            if len(shorter) == len(messages):
                self.emit(lm15.ContextLengthError(f"{self._prompt_tokens} tokens, room for {room}"))
                return
            messages = shorter
            left_out = len(self._messages) - len(messages)
            long = f"The chat is longer than this model can read ({self.context_tokens:,} tokens)"
            self.tell(f"{long}, so its oldest {left_out} messages were left out", "info", "context")

    def _request(self, messages: list[dict[str, str]]) -> dict[str, Any]:
        grammar = self._grammar
        return {
            "messages": messages,
            "max_tokens": grammar.most_tokens if grammar else self._reply_tokens,
            "repeat_penalty": REPEAT_PENALTY,
            "return_progress": True,
            "stream_options": {"include_usage": True},
            "chat_template_kwargs": {"enable_thinking": False},
            **({"grammar": grammar.text} if grammar else {}),
            **self._options,
        }

    def receive(self, chunk: dict[str, Any]) -> bool:
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
                # The chat is being read. How long it is, is known before its first token is.
                self._prompt_tokens = total
                self._too_long = total > self.context_tokens - self._reply_tokens
                if not self._too_long and total > LONG_TOKENS:
                    text = f"Reading the chat: {processed:,} of {total:,} tokens"
                    self.tell(text, "pending" if processed < total else "done", "reading")
            case _:
                self._written = (chunk.get("usage") or {}).get("completion_tokens", self._written)
                for choice in chunk["choices"]:
                    if text := choice["delta"].get("content"):
                        self.emit(lm15.StreamDeltaEvent(lm15.TextDelta(text)))
                    self._reason = choice["finish_reason"] or self._reason
        return self._too_long

    def _end(self) -> None:
        cut = self._reason == "length" or (self._grammar and 0 < self._grammar.text_tokens <= self._written)
        usage = lm15.Usage(input_tokens=self._prompt_tokens, output_tokens=self._written)
        self.emit(lm15.StreamEndEvent(finish_reason="length" if cut else "stop", usage=usage))


def without_oldest(messages: list[dict[str, str]], kept: float) -> list[dict[str, str]]:
    """The messages without the oldest turns, about `kept` of their text; the system and the last one stay."""
    head = [message for message in messages[:1] if message["role"] == "system"]
    turns, last = messages[len(head) : -1], messages[-1:]
    too_much = (1 - kept) * sum(len(message["content"]) for message in messages)
    while turns and too_much > 0:
        size = 2 if len(turns) > 1 and turns[1]["role"] == "assistant" else 1
        too_much -= sum(len(message["content"]) for message in turns[:size])
        turns = turns[size:]
    return head + turns + last
