"""What every backend promises, whoever runs the turn (`dspy_demo.backends.Backend`)."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest

from dspy_demo.backends import Backend
from dspy_demo.errors import DemoError
from dspy_demo.events import (
    Event,
    FieldDelta,
    LMChoice,
    Status,
    TurnFinished,
    TurnRequest,
    TurnStarted,
    event_from_wire,
    to_wire,
)
from tests.backends.served_fixtures import ServedWorld, served_session, served_world  # noqa: F401
from tests.fake_openai import FAULTS, FakeOpenAI
from tests.services import NATIVE, house, played, settings_for, until

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module", autouse=True)
def servers(served_session):  # noqa: F811
    """They run before the check for leftovers of a test looks."""


@dataclass
class Subject:
    """A backend under test, and the upstream behind it."""

    backend: Backend
    request: TurnRequest
    fake: FakeOpenAI

    async def heard(self):
        async with played(self.backend.stream(self.request)) as stream:
            return [event async for event in stream]


@pytest.fixture(params=["local", "served"])
async def subject(request, data_dir):
    if request.param == "local":
        fake = request.getfixturevalue("fake_openai")
        choice = LMChoice(NATIVE, fake.url, cache=False)
        async with house(settings_for(data_dir, lm_retries=0), choice) as home:
            asked = home.request("What is 2 + 2?")
            yield Subject(home.service.backend(asked), asked, fake)
    else:
        world = request.getfixturevalue("served_world")
        backend = world.backend()
        yield Subject(backend, world.request(world.live.url), world.fake)
        await backend.aclose()


async def test_started_is_first_finished_is_last_and_deltas_are_increments_of_its_outputs(subject):
    for events in await asyncio.gather(*(subject.heard() for _ in range(20))):
        started, *between, end = events
        assert isinstance(started, TurnStarted) and isinstance(end, TurnFinished)
        assert all(isinstance(event, FieldDelta | Status) for event in between)
        deltas = [event for event in between if isinstance(event, FieldDelta)]
        for name in {delta.field for delta in deltas}:
            text = "".join(delta.text for delta in deltas if delta.field == name)
            assert text.split() == str(end.outputs[name]).split()
        for event in events:
            assert event_from_wire(to_wire(event)) == event


async def test_a_failure_is_raised_as_our_error_after_what_arrived(subject):
    subject.fake.reply(FAULTS["cut"])
    seen: list[Event] = []
    with pytest.raises(DemoError) as caught:
        async with played(subject.backend.stream(subject.request)) as stream:
            async for event in stream:
                seen.append(event)
    assert caught.value.code == "upstream_cut"
    assert isinstance(seen[0], TurnStarted)
    await until(lambda: not subject.fake.active_streams)


@pytest.mark.parametrize("cancel", [False, True], ids=["stop", "cancel"])
async def test_ending_early_closes_the_upstream_without_a_terminal_event(subject, cancel):
    subject.fake.reply(tokens_per_second=20, filler_chars=2_000)
    seen: list[Event] = []

    async def watch():
        async with played(subject.backend.stream(subject.request)) as stream:
            async for event in stream:
                seen.append(event)
                if isinstance(event, FieldDelta):
                    if cancel:
                        raise asyncio.CancelledError
                    await stream.close()

    await asyncio.wait_for(asyncio.gather(watch(), return_exceptions=True), 10)
    assert isinstance(seen[-1], FieldDelta)
    await until(lambda: not subject.fake.active_streams, 1.0)


async def test_a_plain_server_gives_the_whole_answer_at_once_or_one_sentence(served_world):  # noqa: F811
    url, backend = served_world.plain.url, served_world.backend()
    plain = Subject(backend, served_world.request(url, version=None), served_world.fake)
    started, notice, end = await plain.heard()
    assert started == TurnStarted("served", url, incremental=False)
    assert isinstance(notice, Status) and "cannot stream" in notice.text
    assert isinstance(end, TurnFinished)
    assert list(end.outputs) == ["reasoning", "answer"]
    plain.fake.reply(FAULTS["cut"], times=9)  # the version's own retries
    with pytest.raises(DemoError) as caught:
        await plain.heard()
    assert caught.value.code == "upstream"
    assert "Traceback" not in caught.value.public_message
    plain.request = served_world.request(url)  # as after a crash, when another process has the port
    with pytest.raises(DemoError, match="Something else answers"):
        await plain.heard()
    await backend.aclose()
