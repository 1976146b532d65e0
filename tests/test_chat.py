"""ChatService: limits, time, and exactly one end, over a scripted backend."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from dspy_demo.backends import Backend
from dspy_demo.errors import Busy, Stopped, UpstreamError
from dspy_demo.events import FieldDelta, LMChoice, TurnFailed, TurnFinished, TurnStarted
from tests.scripted_backend import ScriptedBackend, scripted_answer
from tests.services import Heard, House, house, settings_for, until

Over = Callable[..., AbstractAsyncContextManager[House]]
STARTED = TurnStarted("local", "m")


@pytest.fixture
def over(data_dir: Path) -> Over:
    """The house over a backend, with these settings."""

    def made(backend: Backend, **settings: Any) -> AbstractAsyncContextManager[House]:
        return house(settings_for(data_dir, **settings), LMChoice("scripted/model"), local=backend)

    return made


def slow(pause_s: float = 0.2) -> ScriptedBackend:
    return ScriptedBackend(scripted_answer("a b c d"), pause_s=pause_s)


def kinds(heard: Heard) -> list[str]:
    return [event.kind for event in heard.events]


async def started(home: House, backend: ScriptedBackend) -> asyncio.Task[Heard]:
    """A turn that runs."""
    running = asyncio.create_task(home.ask("?"))
    await until(lambda: backend.open_streams)
    return running


async def test_an_error_becomes_the_last_event(over):
    partial = [STARTED, FieldDelta("answer", "answer", "par")]
    for script, code in (([*partial, UpstreamError("Down.")], "upstream"), (partial, "empty_reply")):
        async with over(ScriptedBackend(script)) as home:
            heard = await home.ask("?")
            assert not home.service.running
        assert kinds(heard) == ["started", "delta", "failed"]
        assert heard.failed.code == code


async def test_silence_ends_the_turn_and_talk_meets_only_the_total_limit(over):
    silent = slow(5)
    async with over(silent, idle_timeout_s=0.1) as home:
        heard = await home.ask("?")
    assert (heard.failed.code, silent.open_streams) == ("upstream_timeout", 0)
    assert "0.1 seconds" in heard.failed.public_message
    talking = ScriptedBackend(scripted_answer("x " * 400), pause_s=0.01)
    async with over(talking, idle_timeout_s=0.3, total_timeout_s=1) as home:
        heard = await home.ask("?")
    assert len(heard.deltas) > 20
    assert "longer than 1 second," in heard.failed.public_message


async def test_too_many_turns_are_refused(over):
    backend = slow(0.05)
    async with over(backend, max_turns=1) as home:
        first = await started(home, backend)
        with pytest.raises(Busy):
            home.service.check(home.request("?"))
        assert (await home.ask("?")).failed.code == "busy"
        assert isinstance((await first).end, TurnFinished)
        assert isinstance(await home.service.answer(home.request("?")), TurnFinished)
        assert isinstance(await home.service.answer(home.request("")), TurnFailed)


async def test_draining_lets_running_turns_finish_and_refuses_new_ones(over):
    backend = slow(0.05)
    async with over(backend) as home:
        running = [asyncio.create_task(home.ask("?")) for _ in range(3)]
        await until(lambda: backend.open_streams == 3)
        draining = asyncio.create_task(home.service.drain(10))
        await asyncio.sleep(0)
        with pytest.raises(Stopped, match="shutting down") as refused:
            home.service.check(home.request("?"))
        assert (refused.value.http_status, refused.value.retry_after_s) == (503, 10)
        assert (await home.ask("?")).failed.code == "stopped"
        await next(iter(home.service.running)).stop()
        await draining
        assert not home.service.running
        ends = [(kinds(heard) or [""])[-1] for heard in await asyncio.gather(*running)]
    assert ends.count("finished") == 2 and "failed" not in ends, "a stopped turn is not told as failed"


async def test_draining_ends_what_takes_too_long_with_a_sentence(over):
    backend = slow()
    async with over(backend) as home:
        running = await started(home, backend)
        await home.service.drain(0.3)
        assert backend.open_streams == 0
        heard = await running
    assert (heard.failed.code, heard.failed.retryable) == ("stopped", True)
    assert "What arrived is kept" in heard.failed.public_message
    assert heard.started
