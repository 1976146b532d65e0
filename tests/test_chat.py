"""ChatService: limits, time, and exactly one end, over a scripted backend."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dspy_demo.errors import Busy, InputTooLong, InvalidInput, NotFound, Stopped, UpstreamError
from dspy_demo.events import (
    Event,
    FieldDelta,
    LMChoice,
    ServedTarget,
    TurnFailed,
    TurnFinished,
    TurnRequest,
    TurnStarted,
)
from tests.scripted_backend import ScriptedBackend, scripted_answer
from tests.services import conversation, house, settings_for, until

CHOICE = LMChoice("scripted/model")


async def test_an_error_becomes_the_last_event(data_dir: Path) -> None:
    backend = ScriptedBackend(
        [TurnStarted("local", "m"), FieldDelta("answer", "answer", "par"), UpstreamError("Down.")]
    )
    async with house(settings_for(data_dir), CHOICE, local=backend) as home:
        heard = await home.ask("?")
        assert not home.service.running
    assert [event.kind for event in heard.events] == ["started", "delta", "failed"]
    assert heard.failed.public_message == "Down."


async def test_a_backend_that_just_ends_is_a_failure(data_dir: Path) -> None:
    backend = ScriptedBackend([TurnStarted("local", "m")])
    async with house(settings_for(data_dir), CHOICE, local=backend) as home:
        assert (await home.ask("?")).failed.code == "empty_reply"


async def test_an_unknown_exception_shows_nothing_of_itself(
    data_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Leaky:
        name = "leaky"

        async def stream(self, request: TurnRequest) -> AsyncIterator[Event]:
            raise RuntimeError("sk-secret")
            yield

        async def aclose(self) -> None: ...

    async with house(settings_for(data_dir), CHOICE, local=Leaky()) as home:
        heard = await home.ask("?")
    assert [event.kind for event in heard.events] == ["started", "failed"]
    assert heard.failed.code == "internal"
    assert "sk-secret" not in str(heard.events)
    (record,) = (r for r in caplog.records if getattr(r, "turn_id", "") == heard.failed.error_id)
    assert (record.levelname, record.message) == ("ERROR", "turn failed")
    assert record.exc_info is not None and record.exc_info[0] is RuntimeError


async def test_silence_ends_the_turn(data_dir: Path) -> None:
    backend = ScriptedBackend(scripted_answer("late"), pause_s=5)
    async with house(settings_for(data_dir, idle_timeout_s=0.1), CHOICE, local=backend) as home:
        heard = await home.ask("?")
    assert heard.failed.code == "upstream_timeout"
    assert "0.1 seconds" in heard.failed.public_message
    assert backend.open_streams == 0


async def test_a_slow_but_talking_backend_meets_only_the_total_limit(data_dir: Path) -> None:
    backend = ScriptedBackend(scripted_answer("x " * 400), pause_s=0.01)
    settings = settings_for(data_dir, idle_timeout_s=0.3, total_timeout_s=1)
    async with house(settings, CHOICE, local=backend) as home:
        heard = await home.ask("?")
    assert len(heard.deltas) > 20
    assert "longer than 1 second," in heard.failed.public_message


async def test_stop_ends_the_iteration_without_an_end_event(data_dir: Path) -> None:
    backend = ScriptedBackend(scripted_answer("a b c d e f"), pause_s=0.05)
    async with house(settings_for(data_dir), CHOICE, local=backend) as home:
        turn = home.service.turn(home.request("?"))
        kinds: list[str] = []

        async def watch() -> None:
            async with turn:
                kinds.extend([event.kind async for event in turn])

        watching = asyncio.create_task(watch())
        await until(lambda: backend.open_streams)
        await turn.stop()
        assert backend.open_streams == 0
        await watching
    assert turn.stopped
    assert "failed" not in kinds
    assert "finished" not in kinds


@pytest.mark.parametrize(
    ("inputs", "history", "error"),
    [
        ({"question": ""}, (), InvalidInput),
        ({"question": "   \n"}, (), InvalidInput),
        ({}, (), InvalidInput),
        ({"question": "?", "colour": "red"}, (), InvalidInput),
        ({"question": "x" * 101}, (), InputTooLong),
        ({"question": "x" * 50}, conversation("y" * 60), InputTooLong),
    ],
)
async def test_bad_input_is_refused_before_the_backend(
    data_dir: Path, inputs: dict[str, str], history: tuple, error: type[Exception]
) -> None:
    backend = ScriptedBackend(lambda _: pytest.fail("the backend was called"))
    async with house(settings_for(data_dir, input_max_chars=100), CHOICE, local=backend) as home:
        request = TurnRequest(home.request("?").target, inputs, history)
        with pytest.raises(error):
            home.service.check(request)
        heard = await home.run(request)
    assert [event.kind for event in heard.events] == ["started", "failed"]
    assert heard.failed.http_status in {413, 422}


async def test_unknown_programs_and_targets_are_not_found(data_dir: Path) -> None:
    async with house(settings_for(data_dir), CHOICE, local=ScriptedBackend([])) as home:
        with pytest.raises(NotFound, match="chain_of_thought"):
            home.service.check(home.request("?", program="no_such"))
        heard = await home.run(TurnRequest(ServedTarget("http://127.0.0.1:1"), {"question": "?"}))
    assert heard.failed.http_status == 404


async def test_too_many_turns_are_refused(data_dir: Path) -> None:
    backend = ScriptedBackend(scripted_answer("a b c"), pause_s=0.2)
    async with house(settings_for(data_dir, max_turns=1), CHOICE, local=backend) as home:
        first = asyncio.create_task(home.ask("?"))
        await until(lambda: backend.open_streams)
        with pytest.raises(Busy):
            home.service.check(home.request("?"))
        assert (await home.ask("?")).failed.code == "busy"
        assert isinstance((await first).end, TurnFinished)
        assert isinstance((await home.ask("?")).end, TurnFinished)


async def test_answer_gives_only_the_end(data_dir: Path) -> None:
    async with house(settings_for(data_dir), CHOICE, local=ScriptedBackend(scripted_answer("four"))) as home:
        end = await home.service.answer(home.request("?"))
        assert isinstance(end, TurnFinished)
        assert isinstance(await home.service.answer(home.request("")), TurnFailed)


async def test_closing_the_service_ends_running_turns(data_dir: Path) -> None:
    backend = ScriptedBackend(scripted_answer("a b c d"), pause_s=0.2)
    async with house(settings_for(data_dir), CHOICE, local=backend) as home:
        running = asyncio.create_task(home.ask("?"))
        await until(lambda: backend.open_streams)
        await home.service.aclose()
        assert backend.open_streams == 0
        assert not {"finished", "failed"} & {event.kind for event in (await running).events}


# --- the end ---


async def test_draining_lets_running_turns_finish_and_refuses_new_ones(data_dir: Path) -> None:
    backend = ScriptedBackend(scripted_answer("a b c"), pause_s=0.05)
    async with house(settings_for(data_dir), CHOICE, local=backend) as home:
        running = [asyncio.create_task(home.ask("?")) for _ in range(3)]
        await until(lambda: backend.open_streams == 3)
        draining = asyncio.create_task(home.service.drain(10))
        await asyncio.sleep(0)
        with pytest.raises(Stopped, match="shutting down") as refused:
            home.service.check(home.request("?"))
        assert (refused.value.http_status, refused.value.retry_after_s) == (503, 10)
        assert (await home.ask("?")).failed.code == "stopped"
        await draining
        assert not home.service.running
        assert {heard.end.kind for heard in await asyncio.gather(*running)} == {"finished"}


async def test_draining_ends_what_takes_too_long_with_a_sentence(data_dir: Path) -> None:
    backend = ScriptedBackend(scripted_answer("a b c d"), pause_s=0.2)
    async with house(settings_for(data_dir), CHOICE, local=backend) as home:
        running = asyncio.create_task(home.ask("?"))
        await until(lambda: backend.open_streams)
        await home.service.drain(0.3)
        assert backend.open_streams == 0
        heard = await running
    assert (heard.failed.code, heard.failed.retryable) == ("stopped", True)
    assert "What arrived is kept" in heard.failed.public_message
    assert heard.started


async def test_a_stopped_turn_is_not_told_as_failed_by_a_drain(data_dir: Path) -> None:
    backend = ScriptedBackend(scripted_answer("a b c d"), pause_s=0.2)
    async with house(settings_for(data_dir), CHOICE, local=backend) as home:
        running = asyncio.create_task(home.ask("?"))
        await until(lambda: backend.open_streams)
        draining = asyncio.create_task(home.service.drain(10))
        await asyncio.sleep(0)
        await next(iter(home.service.running)).stop()
        await draining
        assert {"finished", "failed"}.isdisjoint(event.kind for event in (await running).events)
