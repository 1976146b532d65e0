"""The contract of the backends, over both kinds of model server."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from dspy_demo.errors import DemoError
from dspy_demo.events import ServedTarget, Status, TurnFinished, TurnRequest, TurnStarted
from tests.backends.served_fixtures import ServedWorld, served_session, served_world
from tests.backends.test_contract import (
    Subject,
    heard,
    test_a_failure_is_raised_as_our_error_after_what_arrived,
    test_deltas_are_increments_of_the_outputs,
    test_ending_early_closes_the_upstream_without_a_terminal_event,
    test_every_event_survives_the_wire,
    test_started_is_first_and_finished_is_last,
    test_turns_run_side_by_side,
)
from tests.fake_openai import FAULTS
from tests.services import played, until

pytestmark = pytest.mark.integration

__all__ = [
    "served_session",
    "served_world",
    "test_a_failure_is_raised_as_our_error_after_what_arrived",
    "test_deltas_are_increments_of_the_outputs",
    "test_ending_early_closes_the_upstream_without_a_terminal_event",
    "test_every_event_survives_the_wire",
    "test_started_is_first_and_finished_is_last",
    "test_turns_run_side_by_side",
]


def _subject(world: ServedWorld, url: str, version: str | None = "") -> Subject:
    fake = world.fake
    return Subject(
        world.backend(),
        world.request(url, version=version),
        slow=lambda: fake.reply(tokens_per_second=20, filler_chars=2_000),
        broken=lambda: fake.reply(FAULTS["cut"]),
        open_streams=lambda: fake.active_streams,
    )


@pytest.fixture
async def subject(served_world: ServedWorld) -> AsyncIterator[Subject]:
    made = _subject(served_world, served_world.live.url)
    yield made
    await made.backend.aclose()


@pytest.fixture
async def plain(served_world: ServedWorld) -> AsyncIterator[Subject]:
    made = _subject(served_world, served_world.plain.url, None)
    yield made
    await made.backend.aclose()


async def test_a_plain_server_gives_the_whole_answer_at_once(plain: Subject) -> None:
    started, notice, end = await heard(plain)
    assert started == TurnStarted("served", plain.request.target.url, incremental=False)  # type: ignore[union-attr]
    assert isinstance(notice, Status) and "cannot stream" in notice.text
    assert isinstance(end, TurnFinished)
    assert list(end.outputs) == ["reasoning", "answer"]


async def test_a_failure_behind_a_plain_server_is_one_sentence(plain: Subject) -> None:
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
    served_world: ServedWorld, server: str, version: str, instance: str, says: str
) -> None:
    """As after a crash, when the same port goes to another process."""
    url = getattr(served_world, server).url
    target = ServedTarget(url, getattr(served_world, version), instance=instance)
    backend = served_world.backend()
    with pytest.raises(DemoError, match=says) as caught:
        async with played(backend.stream(TurnRequest(target, {"question": "?"}))) as pump:
            assert [event async for event in pump] == []
    await backend.aclose()
    assert caught.value.code == "wrong_server"
    await until(lambda: served_world.fake.active_streams == 0, 2)
