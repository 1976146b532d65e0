"""What every backend promises, whoever runs the turn (`dspy_demo.backends.base`)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from dspy_demo.backends.base import Backend
from dspy_demo.errors import DemoError, UpstreamCut
from dspy_demo.events import (
    Event,
    FieldDelta,
    LMChoice,
    LocalTarget,
    ServedTarget,
    Status,
    TurnFinished,
    TurnRequest,
    TurnStarted,
    event_from_wire,
    to_wire,
)
from tests.backends.served_fixtures import ServedWorld, served_session, served_world  # noqa: F401
from tests.fake_openai import FAULTS, FakeOpenAI
from tests.scripted_backend import ScriptedBackend, scripted_answer
from tests.services import NATIVE, house, played, settings_for, until

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module", autouse=True)
def servers(served_session: ServedWorld) -> None:  # noqa: F811
    """They run before the check for leftovers of a test looks."""


@dataclass
class Subject:
    """A backend under test, and how to bring it into the states that the contract speaks of."""

    backend: Backend
    request: TurnRequest
    slow: Callable[[], None]
    broken: Callable[[], None]
    open_streams: Callable[[], int]

    @classmethod
    def over(cls, fake: FakeOpenAI, backend: Backend, request: TurnRequest) -> Subject:
        return cls(
            backend,
            request,
            slow=lambda: fake.reply(tokens_per_second=20, filler_chars=2_000),
            broken=lambda: fake.reply(FAULTS["cut"]),
            open_streams=lambda: fake.active_streams,
        )


@asynccontextmanager
async def scripted() -> AsyncIterator[Subject]:
    state = {"script": scripted_answer("four", reasoning="two and two")}
    backend = ScriptedBackend(lambda _: state["script"])
    request = TurnRequest(LocalTarget("any", LMChoice("scripted/model")), {"question": "?"})
    broken = [*scripted_answer("four")[:1], UpstreamCut()]
    yield Subject(
        backend,
        request,
        slow=lambda: setattr(backend, "_pause_s", 0.05),
        broken=lambda: state.update(script=broken),  # type: ignore[call-overload]
        open_streams=lambda: backend.open_streams,
    )


@asynccontextmanager
async def local(fake: FakeOpenAI, data_dir: Path) -> AsyncIterator[Subject]:
    choice = LMChoice(NATIVE, fake.url, cache=False)
    async with house(settings_for(data_dir, lm_retries=0), choice) as home:
        request = home.request("What is 2 + 2?")
        yield Subject.over(fake, home.service.backend(request), request)


@asynccontextmanager
async def served(world: ServedWorld, url: str, version: str | None = "") -> AsyncIterator[Subject]:
    backend = world.backend()
    yield Subject.over(world.fake, backend, world.request(url, version=version))
    await backend.aclose()


@pytest.fixture(params=["scripted", "local", "served"])
async def subject(request: pytest.FixtureRequest, data_dir: Path) -> AsyncIterator[Subject]:
    if request.param == "scripted":
        making = scripted()
    elif request.param == "local":
        making = local(request.getfixturevalue("fake_openai"), data_dir)
    else:
        world = request.getfixturevalue("served_world")
        making = served(world, world.live.url)
    async with making as made:
        yield made


async def heard(subject: Subject) -> list[Event]:
    async with played(subject.backend.stream(subject.request)) as stream:
        return [event async for event in stream]


async def test_started_is_first_finished_is_last_and_deltas_are_increments_of_its_outputs(
    subject: Subject,
) -> None:
    started, *between, end = await heard(subject)
    assert isinstance(started, TurnStarted) and isinstance(end, TurnFinished)
    assert all(isinstance(event, FieldDelta | Status) for event in between)
    deltas = [event for event in between if isinstance(event, FieldDelta)]
    for name in {delta.field for delta in deltas}:
        text = "".join(delta.text for delta in deltas if delta.field == name)
        assert text.split() == str(end.outputs[name]).split()
    for event in (started, *between, end):
        assert event_from_wire(to_wire(event)) == event


async def test_a_failure_is_raised_as_our_error_after_what_arrived(subject: Subject) -> None:
    subject.broken()
    seen: list[Event] = []
    with pytest.raises(DemoError) as caught:
        async with played(subject.backend.stream(subject.request)) as stream:
            async for event in stream:
                seen.append(event)
    assert caught.value.code == "upstream_cut"
    assert isinstance(seen[0], TurnStarted)
    await until(lambda: subject.open_streams() == 0)


@pytest.mark.parametrize("cancel", [False, True], ids=["stop", "cancel"])
async def test_ending_early_closes_the_upstream_without_a_terminal_event(
    subject: Subject, cancel: bool
) -> None:
    subject.slow()
    seen: list[Event] = []

    async def watch() -> None:
        async with played(subject.backend.stream(subject.request)) as stream:
            async for event in stream:
                seen.append(event)
                if isinstance(event, FieldDelta):
                    if cancel:
                        raise asyncio.CancelledError
                    await stream.close()

    watching = asyncio.create_task(watch())
    await asyncio.wait({watching}, timeout=10)
    assert watching.done()
    assert isinstance(seen[-1], FieldDelta)
    await until(lambda: subject.open_streams() == 0, 1.0)


async def test_turns_run_side_by_side(subject: Subject) -> None:
    turns = await asyncio.gather(*(heard(subject) for _ in range(20)))
    assert all(isinstance(events[-1], TurnFinished) for events in turns)


async def test_a_plain_server_gives_the_whole_answer_at_once_or_one_sentence(
    served_world: ServedWorld,  # noqa: F811
) -> None:
    url = served_world.plain.url
    async with served(served_world, url, None) as plain:
        started, notice, end = await heard(plain)
        assert started == TurnStarted("served", url, incremental=False)
        assert isinstance(notice, Status) and "cannot stream" in notice.text
        assert isinstance(end, TurnFinished)
        assert list(end.outputs) == ["reasoning", "answer"]
        for _ in range(9):  # the version's own retries
            plain.broken()
        with pytest.raises(DemoError) as caught:
            await heard(plain)
    assert caught.value.code == "upstream"
    assert "Traceback" not in caught.value.public_message


@pytest.mark.parametrize(
    ("server", "version", "instance", "says"),
    [
        ("live", "second", "", "another version"),
        ("live", "version", "a-process-that-ended", "Something else answers"),
        ("plain", "version", "", "Something else answers"),
        ("plain", "version", "a-process-that-ended", "Something else answers"),
    ],
)
async def test_whatever_took_the_port_of_a_server_is_not_asked(
    served_world: ServedWorld,  # noqa: F811
    server: str,
    version: str,
    instance: str,
    says: str,
) -> None:
    """As after a crash, when the same port goes to another process."""
    url = getattr(served_world, server).url
    target = ServedTarget(url, getattr(served_world, version), instance=instance)
    backend = served_world.backend()
    subject = Subject.over(served_world.fake, backend, TurnRequest(target, {"question": "?"}))
    with pytest.raises(DemoError, match=says) as caught:
        await heard(subject)
    await backend.aclose()
    assert caught.value.code == "wrong_server"
    await until(lambda: subject.open_streams() == 0, 2)
