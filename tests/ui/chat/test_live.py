"""A running turn as snapshots."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from dspy_demo.chat import ChatService
from dspy_demo.errors import UpstreamCut
from dspy_demo.events import Event, FieldDelta, LMChoice, LocalTarget, TurnRequest, TurnStarted
from dspy_demo.programs.registry import ProgramRegistry
from dspy_demo.programs.shipped import SHIPPED
from dspy_demo.settings import Settings
from dspy_demo.ui.chat.live import REDRAW_S, LiveTurn
from dspy_demo.ui.chat.render import messages
from dspy_demo.ui.chat.turn_view import TurnView
from tests.scripted_backend import ScriptedBackend, scripted_answer

Start = Callable[[ScriptedBackend], LiveTurn]


@pytest.fixture
def ended() -> list[TurnView]:
    """What `on_end` was given."""
    return []


@pytest.fixture
def start(tmp_path: Path, ended: list[TurnView]) -> Start:
    def start(backend: ScriptedBackend) -> LiveTurn:
        service = ChatService(Settings(data_dir=tmp_path), ProgramRegistry(SHIPPED), backend)
        request = TurnRequest(LocalTarget("chain_of_thought", LMChoice("m")), {"question": "q"})
        view = TurnView("q", started_s=time.monotonic())
        return LiveTurn(service.turn(request), view, on_end=ended.append)

    return start


class SlowToClose(ScriptedBackend):
    async def stream(self, request: TurnRequest) -> AsyncIterator[Event]:
        try:
            async for event in super().stream(request):
                yield event
        finally:
            await asyncio.sleep(0.05)


async def test_the_last_snapshot_is_the_whole_turn_which_is_kept_by_then(
    start: Start, ended: list[TurnView]
) -> None:
    async for shot in start(
        SlowToClose(scripted_answer("one two", reasoning="Hm."), pause_s=0.01)
    ).snapshots():
        assert shot.running or ended == [shot]
    assert (shot.state, shot.answer_text) == ("done", "one two")


@pytest.mark.parametrize(("delivered", "most"), [(True, None), (False, 2)], ids=["taken", "not taken"])
async def test_redraws_are_few_and_wait_for_the_last_one(
    start: Start, delivered: bool, most: int | None
) -> None:
    turn, began = (
        start(ScriptedBackend(scripted_answer("x" * 300, tokens=["x"] * 300), pause_s=0.001)),
        time.monotonic(),
    )
    shots = [shot async for shot in turn.snapshots(lambda: delivered)]
    assert len(shots) <= (most or (time.monotonic() - began) / REDRAW_S + 2)
    assert shots[-1].answer_text == "x" * 300  # the end waits for nobody


async def test_a_failure_keeps_the_text_and_has_the_number_of_the_log(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    turn = start(
        ScriptedBackend([TurnStarted("local", "m"), FieldDelta("answer", "answer", "Fo"), UpstreamCut()])
    )
    last = [shot async for shot in turn.snapshots()][-1]
    assert (last.state, last.answer_text) == ("failed", "Fo")
    assert f"Error {caplog.records[0].turn_id}" in str(messages(last))  # type: ignore[attr-defined]


async def test_stop_ends_it_at_once_also_when_nothing_comes(start: Start, ended: list[TurnView]) -> None:
    backend = ScriptedBackend([TurnStarted("local", "m"), *scripted_answer("never")], pause_s=60)
    turn = start(backend)
    await asyncio.sleep(0.02)
    async with asyncio.timeout(2):
        await turn.stop()
        await turn.stop()
    assert [view.state for view in ended] == ["stopped"]
    assert [shot.state async for shot in turn.snapshots()] == ["stopped"]
    assert backend.open_streams == 0


async def test_it_runs_to_its_end_also_when_nobody_watches(start: Start, ended: list[TurnView]) -> None:
    async with asyncio.timeout(2):
        await start(ScriptedBackend(scripted_answer("a b c"))).ended()
    assert [view.state for view in ended] == ["done"]


async def test_a_fault_of_the_page_itself_fails_the_turn(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> TurnView:
        raise ValueError("secret")

    monkeypatch.setattr(TurnView, "_with_delta", broken)
    turn = start(ScriptedBackend(scripted_answer("x")))
    last = [shot async for shot in turn.snapshots()][-1]
    assert last.failure is not None
    assert "secret" not in last.failure.public_message
