"""The built-in engine: a rule-based stand-in for a language model, which needs no key and no network.

`dspy.LM(DEMO_MODEL, engine=OfflineEngine(), async_engine=AsyncOfflineEngine())` behaves like
any other LM: it streams, caches, counts usage, stops when cancelled, and can be saved. What it
knows is in `dspy_demo.lm.rules`. A token here is one of its own pieces: a word with the space
before it (long words in parts), or one of DSPy's field markers, whole.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

import dspy
from dspy import lm15

from dspy_demo.lm.choices import DEMO_MODEL
from dspy_demo.lm.rules.prompt import Role
from dspy_demo.lm.rules.respond import respond

DEFAULT_TOKENS_PER_SECOND = 40.0

_PIECE = re.compile(r"\s*(?:\[\[ ## \w+ ## \]\]|\S{1,12})|\s+")


def offline_lm(
    *, tokens_per_second: float = DEFAULT_TOKENS_PER_SECOND, cache: bool = False, **settings: Any
) -> dspy.LM:
    """The built-in engine as a `dspy.LM`.

    Args:
        tokens_per_second: The pace of a stream; 0 streams without a pause.
        cache: Whether DSPy may answer the same request from its cache (then nothing streams).
        settings: Other settings of `dspy.LM`, for example ``max_tokens``.
    """
    return dspy.LM(
        DEMO_MODEL,
        engine=OfflineEngine(tokens_per_second),
        async_engine=AsyncOfflineEngine(tokens_per_second),
        cache=cache,
        **settings,
    )


@dataclass(frozen=True, slots=True)
class _Rules:
    """What both engines share: the settings, which are plain data, and the reply itself.

    Attributes:
        tokens_per_second: The pace of a stream; 0 streams without a pause.
        fixed_now: An ISO time that stands for "now", for tests and demos; the clock when empty.
    """

    tokens_per_second: float = DEFAULT_TOKENS_PER_SECOND
    fixed_now: str = ""

    def dump_state(self) -> dict[str, Any]:
        return {"tokens_per_second": self.tokens_per_second, "fixed_now": self.fixed_now}

    @classmethod
    def load_state(cls, state: Mapping[str, Any]) -> Self:
        return cls(
            float(state.get("tokens_per_second", DEFAULT_TOKENS_PER_SECOND)), str(state.get("fixed_now", ""))
        )

    @property
    def _pause_s(self) -> float:
        return 1 / self.tokens_per_second if self.tokens_per_second > 0 else 0.0

    def _reply(self, request: lm15.Request) -> _Reply:
        now = datetime.fromisoformat(self.fixed_now) if self.fixed_now else datetime.now().astimezone()
        system = _system_text(request)
        messages: list[tuple[Role, str]] = [
            ("assistant" if message.role == "assistant" else "user", message.text or "")
            for message in request.messages
        ]
        read = sum(len(pieces(text)) for text in (system, *(text for _, text in messages)))
        text = respond(system, messages, now=now)
        return _limited(_stopped(text, request.config.stop), request.config.max_tokens, read)


class OfflineEngine(_Rules):
    """The synchronous engine. `complete` does not pace itself: nobody watches it."""

    def complete(self, request: lm15.Request) -> lm15.Response:
        return self._reply(request).response()

    def stream(self, request: lm15.Request) -> Iterator[lm15.StreamEvent]:
        reply = self._reply(request)
        yield lm15.StreamStartEvent(model=DEMO_MODEL)
        for piece in reply.pieces:
            if self._pause_s:
                time.sleep(self._pause_s)
            yield lm15.StreamDeltaEvent(lm15.TextDelta(piece))
        yield reply.end()

    def close(self) -> None:
        """Nothing is open."""


class AsyncOfflineEngine(_Rules):
    """The asynchronous engine. A cancellation stops it at the next piece or in the pause before it."""

    async def complete(self, request: lm15.Request) -> lm15.Response:
        return self._reply(request).response()

    async def stream(self, request: lm15.Request) -> AsyncIterator[lm15.StreamEvent]:
        reply = self._reply(request)
        yield lm15.StreamStartEvent(model=DEMO_MODEL)
        for piece in reply.pieces:
            await asyncio.sleep(self._pause_s)
            yield lm15.StreamDeltaEvent(lm15.TextDelta(piece))
        yield reply.end()

    async def aclose(self) -> None:
        """Nothing is open."""


@dataclass(frozen=True, slots=True)
class _Reply:
    """The pieces to emit, whether they are all of them, and how many pieces were read for it."""

    pieces: tuple[str, ...]
    complete: bool
    read: int

    @property
    def usage(self) -> lm15.Usage:
        return lm15.Usage(input_tokens=self.read, output_tokens=len(self.pieces))

    @property
    def finish_reason(self) -> lm15.FinishReason:
        return "stop" if self.complete else "length"

    def end(self) -> lm15.StreamEndEvent:
        return lm15.StreamEndEvent(finish_reason=self.finish_reason, usage=self.usage)

    def response(self) -> lm15.Response:
        return lm15.Response(
            id=None,
            model=DEMO_MODEL,
            message=lm15.Message.assistant("".join(self.pieces)),
            finish_reason=self.finish_reason,
            usage=self.usage,
        )


def pieces(text: str) -> tuple[str, ...]:
    """`text` in the engine's own tokens; joined they are the text again."""
    return tuple(_PIECE.findall(text))


def _limited(text: str, max_tokens: int | None, read: int) -> _Reply:
    emitted = pieces(text)
    if max_tokens is None or len(emitted) <= max_tokens:
        return _Reply(emitted, True, read)
    return _Reply(emitted[:max_tokens], False, read)


def _stopped(text: str, stops: tuple[str, ...]) -> str:
    for stop in stops:
        text = text.partition(stop)[0]
    return text


def _system_text(request: lm15.Request) -> str:
    if request.system is None:
        return ""
    if isinstance(request.system, str):
        return request.system
    return "".join(getattr(part, "text", "") for part in request.system)
