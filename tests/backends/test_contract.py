"""What every backend promises, whoever runs the turn (`dspy_demo.backends.base`)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dspy_demo.backends.base import Backend
from dspy_demo.backends.local import LocalBackend
from dspy_demo.errors import DemoError, UpstreamCut
from dspy_demo.events import (
    Event,
    FieldDelta,
    LMChoice,
    LocalTarget,
    Status,
    TurnFinished,
    TurnRequest,
    TurnStarted,
    event_from_wire,
    to_wire,
)
from dspy_demo.lm.catalog import LMCatalog
from dspy_demo.lm.choices import Detection
from dspy_demo.programs.registry import ProgramRegistry
from dspy_demo.programs.shipped import SHIPPED
from tests.fake_openai import FAULTS, FakeOpenAI
from tests.scripted_backend import ScriptedBackend, scripted_answer
from tests.services import played, settings_for, until


@dataclass
class Subject:
    """A backend under test, and how to bring it into the states that the contract speaks of."""

    backend: Backend
    request: TurnRequest
    slow: Callable[[], None]
    broken: Callable[[], None]
    open_streams: Callable[[], int]


@asynccontextmanager
async def scripted(_: FakeOpenAI, __: Path) -> AsyncIterator[Subject]:
    state: dict[str, Any] = {"script": scripted_answer("four", reasoning="two and two")}
    backend = ScriptedBackend(lambda _: state["script"])
    broken = [*scripted_answer("four")[:1], UpstreamCut()]

    def slow() -> None:
        backend._pause_s = 0.05

    yield Subject(
        backend,
        TurnRequest(LocalTarget("any", LMChoice("scripted/model")), {"question": "?"}),
        slow=slow,
        broken=lambda: state.update(script=broken),
        open_streams=lambda: backend.open_streams,
    )


@asynccontextmanager
async def local(fake: FakeOpenAI, data_dir: Path) -> AsyncIterator[Subject]:
    settings = settings_for(data_dir, lm_retries=0)
    choice = LMChoice("openai/fake", fake.url, cache=False)
    backend = LocalBackend(
        settings, ProgramRegistry(SHIPPED), LMCatalog(settings, Detection(choice, "for a test", ()))
    )
    yield Subject(
        backend,
        TurnRequest(LocalTarget("chain_of_thought", choice), {"question": "What is 2 + 2?"}),
        slow=lambda: fake.reply(tokens_per_second=20, filler_chars=2_000),
        broken=lambda: fake.reply(FAULTS["cut"]),
        open_streams=lambda: fake.active_streams,
    )
    await backend.aclose()


SUBJECTS = {"scripted": scripted, "local": local}


@pytest.fixture(params=SUBJECTS)
async def subject(
    request: pytest.FixtureRequest, fake_openai: FakeOpenAI, data_dir: Path
) -> AsyncIterator[Subject]:
    async with SUBJECTS[request.param](fake_openai, data_dir) as made:
        yield made


async def heard(subject: Subject) -> list[Event]:
    async with played(subject.backend.stream(subject.request)) as pump:
        return [event async for event in pump]


async def test_started_is_first_and_finished_is_last(subject: Subject) -> None:
    events = await heard(subject)
    assert isinstance(events[0], TurnStarted)
    assert isinstance(events[-1], TurnFinished)
    assert all(isinstance(event, FieldDelta | Status) for event in events[1:-1])


async def test_deltas_are_increments_of_the_outputs(subject: Subject) -> None:
    *deltas, end = await heard(subject)
    assert isinstance(end, TurnFinished)
    for name in {delta.field for delta in deltas if isinstance(delta, FieldDelta)}:
        text = "".join(
            delta.text for delta in deltas if isinstance(delta, FieldDelta) and delta.field == name
        )
        assert text.split() == str(end.outputs[name]).split()


async def test_every_event_survives_the_wire(subject: Subject) -> None:
    for event in await heard(subject):
        assert event_from_wire(to_wire(event)) == event


async def test_a_failure_is_raised_as_our_error_after_what_arrived(subject: Subject) -> None:
    subject.broken()
    seen: list[Event] = []
    with pytest.raises(DemoError) as caught:
        async with played(subject.backend.stream(subject.request)) as pump:
            async for event in pump:
                seen.append(event)
    assert caught.value.code == "upstream_cut"
    assert isinstance(seen[0], TurnStarted)
    await until(lambda: subject.open_streams() == 0)


async def _stop(pump: Any) -> None:
    await pump.close()


async def _cancel_the_reader(_: Any) -> None:
    raise asyncio.CancelledError


@pytest.mark.parametrize("end", [_stop, _cancel_the_reader], ids=["stop", "cancel"])
async def test_ending_early_closes_the_upstream_without_a_terminal_event(
    subject: Subject, end: Callable[[Any], Awaitable[None]]
) -> None:
    subject.slow()
    seen: list[Event] = []

    async def watch() -> None:
        async with played(subject.backend.stream(subject.request)) as pump:
            async for event in pump:
                seen.append(event)
                if isinstance(event, FieldDelta):
                    await end(pump)

    watching = asyncio.create_task(watch())
    await asyncio.wait({watching}, timeout=10)
    assert watching.done()
    assert isinstance(seen[-1], FieldDelta)
    await until(lambda: subject.open_streams() == 0, 1.0)


async def test_turns_run_side_by_side(subject: Subject) -> None:
    turns = await asyncio.gather(*(heard(subject) for _ in range(20)))
    assert all(isinstance(events[-1], TurnFinished) for events in turns)
