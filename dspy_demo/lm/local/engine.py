"""The DSPy engines of a model file: a request becomes a job in a queue, and the job's events DSPy's.

Engines hold plain data only; the one model in memory belongs to the process's `JobQueue`.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any

import dspy
from dspy import lm15

from dspy_demo.adapters import adapter_name
from dspy_demo.dspy_bridge import calling_predictor
from dspy_demo.errors import ModelSetupError, UpstreamError
from dspy_demo.events import StatusState
from dspy_demo.lm.chat_lm import call_observer
from dspy_demo.lm.local.files import LocalModel, missing, trained_context
from dspy_demo.lm.local.grammar import Grammar, reply_grammar
from dspy_demo.lm.local.runtime import LoadedModel, jobs

log = logging.getLogger(__name__)

#: What a job waits for is told again, so that waiting is not taken for silence.
STILL_WAITING_S = 10.0
#: The reply's limit where the user set none. Small models repeat themselves rather than stop.
REPLY_TOKENS = 1024
REPEAT_PENALTY = 1.1
#: A chat of more is told while it is read, which takes seconds.
LONG_TOKENS = 256
SAMPLING = ("temperature", "top_p", "top_k", "seed", "frequency_penalty", "presence_penalty")


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
        yield lm15.StreamStartEvent(model=request.model)
        job = Job(self, request)
        jobs.submit(job)
        try:
            while True:
                try:
                    async with asyncio.timeout(STILL_WAITING_S):
                        event = await job.events.get()
                except TimeoutError:
                    if job.awaits:
                        job.tell(job.awaits, "pending")
                    continue
                if isinstance(event, Exception):
                    raise event
                yield event
                if isinstance(event, lm15.StreamEndEvent):
                    return
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
            return reply_grammar(name, signature, max_tokens)
    return None


class Job:
    """A request to a model, run in the queue's thread; its events end with a `StreamEndEvent` or an error."""

    def __init__(self, engine: AsyncGgufEngine, request: lm15.Request) -> None:
        self.file, self.stopped = engine.file, threading.Event()
        self.events: asyncio.Queue[lm15.StreamEvent | Exception] = asyncio.Queue()
        self._loop, self._observer = asyncio.get_running_loop(), call_observer.get()
        if not self.file.path.is_file():
            raise ModelSetupError(missing(self.file.title, self.file.sha256))
        trained = trained_context(self.file.path)
        self.context_tokens = min(engine.context_tokens, trained or engine.context_tokens)
        self._reply_tokens = min(request.config.max_tokens or REPLY_TOKENS, self.context_tokens // 2)
        self._request, self._text_tokens = self._options(request), 0
        if grammar := _grammar(self._request["messages"][-1]["content"], self._reply_tokens):
            self._request |= {"grammar": grammar.text, "max_tokens": grammar.most_tokens}
            self._text_tokens = grammar.text_tokens
        self.awaits = ""  # what the user was told last that is awaited
        self._prompt_tokens, self._written, self._reason = 0, 0, ""
        self._error: Exception | None = None

    def _options(self, request: lm15.Request) -> dict[str, Any]:
        """The request in OpenAI's terms. Only text is kept: these models read nothing else."""
        system, config = request.system or "", request.config
        if not isinstance(system, str):
            system = "".join(getattr(part, "text", "") for part in system)
        messages = [{"role": "system", "content": system}] if system else []
        messages += [{"role": message.role, "content": message.text or ""} for message in request.messages]
        given = {name: getattr(config, name) for name in SAMPLING} | {"stop": list(config.stop or ()) or None}
        return {
            "messages": messages,
            "max_tokens": self._reply_tokens,
            "repeat_penalty": REPEAT_PENALTY,
            "return_progress": True,
            "stream_options": {"include_usage": True},
            "chat_template_kwargs": {"enable_thinking": False},
            **{name: value for name, value in given.items() if value is not None},
        }

    def tell(self, text: str, state: StatusState) -> None:
        """Tell the turn what is awaited, all in one line of it."""
        self.awaits = text if state == "pending" else ""
        if self._observer and not self.stopped.is_set():
            self._observer.call_notice(text, state, "local-model")

    def emit(self, event: lm15.StreamEvent | Exception) -> None:
        if not self.stopped.is_set():  # its loop may be closed by now
            self._loop.call_soon_threadsafe(self.events.put_nowait, event)

    def run(self, model: LoadedModel) -> None:
        """Generate the reply in this thread."""
        model.generate(self._request, self.receive)
        if self._error:
            raise self._error
        cut = self._reason == "length" or 0 < self._text_tokens <= self._written
        usage = lm15.Usage(input_tokens=self._prompt_tokens, output_tokens=self._written)
        self.emit(lm15.StreamEndEvent(finish_reason="length" if cut else "stop", usage=usage))

    def receive(self, chunk: dict[str, Any]) -> bool:
        """Take a chunk; True ends the generation."""
        match chunk:
            case {"error": {"type": "exceed_context_size_error"}}:
                self._error = lm15.ContextLengthError("the chat is longer than the context")
            case {"error": error}:
                log.warning("the runtime refused a request", extra={"error": error.get("message")})
                self._error = UpstreamError("The model on this machine failed to answer. Try again.")
            case {"prompt_progress": {"total": total, "processed": processed}}:
                # The chat is being read. How long it is, is known before its first token is.
                self._prompt_tokens = total
                if total > self.context_tokens - self._reply_tokens:
                    self._error = lm15.ContextLengthError("the chat leaves too little room for its reply")
                elif total > LONG_TOKENS:
                    text = f"Reading the chat: {processed:,} of {total:,} tokens"
                    self.tell(text, "pending" if processed < total else "done")
            case _:
                self._written = (chunk.get("usage") or {}).get("completion_tokens", self._written)
                for choice in chunk["choices"]:
                    if text := choice["delta"].get("content"):
                        self.emit(lm15.StreamDeltaEvent(lm15.TextDelta(text)))
                    self._reason = choice["finish_reason"] or self._reason
        return self.stopped.is_set() or self._error is not None
