"""The house as `app.py` builds it, without a page, for tests of what lies behind it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dspy_demo.backends import Backend
from dspy_demo.backends.local import LocalBackend
from dspy_demo.chat import ChatService
from dspy_demo.events import (
    Event,
    FieldDelta,
    LMChoice,
    LocalTarget,
    Message,
    Status,
    TurnFailed,
    TurnFinished,
    TurnRequest,
    TurnStarted,
)
from dspy_demo.guests.limits import GuestLimits
from dspy_demo.lm.catalog import LMCatalog
from dspy_demo.lm.choices import DEMO_MODEL, Detection, LMOption
from dspy_demo.programs.registry import ProgramRegistry
from dspy_demo.programs.shipped import SHIPPED
from dspy_demo.settings import Settings
from dspy_demo.streaming.turn_stream import TurnStream

#: Models that are asked by DSPy's own engine, and by litellm.
NATIVE, LITELLM = "openai/fake", "litellm_proxy/fake"


def settings_for(data_dir: Path, **values: Any) -> Settings:
    """Settings of a test."""
    return Settings(data_dir=data_dir, **values)


@dataclass
class House:
    """The services of one app."""

    settings: Settings
    programs: ProgramRegistry
    catalog: LMCatalog
    service: ChatService
    choice: LMChoice

    def request(self, question: str, *, program: str = "chain_of_thought", **fields: Any) -> TurnRequest:
        history = fields.pop("history", ())
        choice = fields.pop("choice", self.choice)
        return TurnRequest(LocalTarget(program, choice), {"question": question, **fields}, tuple(history))

    async def ask(self, question: str, **fields: Any) -> Heard:
        return await self.run(self.request(question, **fields))

    async def run(self, request: TurnRequest) -> Heard:
        heard = Heard()
        async with self.service.turn(request) as turn:
            async for event in turn:
                heard.events.append(event)
        return heard


@dataclass
class Heard:
    """The events of one turn, and what they say."""

    events: list[Event] = field(default_factory=list)

    @property
    def end(self) -> Event:
        return self.events[-1]

    @property
    def finished(self) -> TurnFinished:
        assert isinstance(self.end, TurnFinished), self.end
        return self.end

    @property
    def failed(self) -> TurnFailed:
        assert isinstance(self.end, TurnFailed), self.end
        return self.end

    @property
    def started(self) -> TurnStarted:
        assert isinstance(self.events[0], TurnStarted)
        return self.events[0]

    @property
    def deltas(self) -> list[FieldDelta]:
        return [event for event in self.events if isinstance(event, FieldDelta)]

    @property
    def statuses(self) -> list[Status]:
        return [event for event in self.events if isinstance(event, Status)]

    def text(self, field: str, *, step: str | None = None, channel: str | None = None) -> str:
        return "".join(
            delta.text
            for delta in self.deltas
            if delta.field == field and step in {None, delta.step} and channel in {None, delta.channel}
        )


@asynccontextmanager
async def house(
    settings: Settings,
    choice: LMChoice | None = None,
    *,
    programs: ProgramRegistry | None = None,
    local: Backend | None = None,
    served: Backend | None = None,
    limits: GuestLimits | None = None,
) -> AsyncIterator[House]:
    """The services over `choice`, the demo engine by default, closed at the end."""
    choice = choice or LMChoice(DEMO_MODEL)
    detection = Detection(choice, "for a test", (LMOption(choice.model, choice.model),))
    programs = programs or ProgramRegistry(SHIPPED)
    catalog = LMCatalog(settings, detection)
    catalog.demo_tokens_per_s, catalog.retry_wait_s = 0, 0.01
    local = local or LocalBackend(settings, programs, catalog)
    service = ChatService(settings, programs, local, served, limits=limits)
    try:
        yield House(settings, programs, catalog, service, choice)
    finally:
        await service.aclose()


@asynccontextmanager
async def played(events: AsyncGenerator[Event, None]) -> AsyncIterator[TurnStream[Event]]:
    """The events of a backend, iterated by a task of its own as the app does it."""

    async def play() -> None:
        async with aclosing(events):
            async for event in events:
                await stream.send(event)

    async with TurnStream[Event]() as stream:
        stream.start(play())
        yield stream


def conversation(*texts: str) -> tuple[Message, ...]:
    """Messages in turns, the user's first."""
    return tuple(Message("user" if index % 2 == 0 else "assistant", text) for index, text in enumerate(texts))


async def until(condition: Any, timeout_s: float = 5.0) -> None:
    """Let the event loop run until `condition()` is true."""
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.005)
