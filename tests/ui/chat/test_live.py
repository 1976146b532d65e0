"""A running turn as snapshots."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dspy_demo.chat import ChatService
from dspy_demo.errors import UpstreamCut
from dspy_demo.events import Event, FieldDelta, LMChoice, LocalTarget, TurnRequest, TurnStarted
from dspy_demo.programs.registry import ProgramRegistry
from dspy_demo.programs.shipped import SHIPPED
from dspy_demo.settings import Settings
from dspy_demo.ui.chat.cadence import Cadence
from dspy_demo.ui.chat.live import LiveTurn
from dspy_demo.ui.chat.render import messages
from dspy_demo.ui.chat.turn_view import TurnView
from tests.scripted_backend import ScriptedBackend, scripted_answer


def live(backend: ScriptedBackend, tmp_path: Path) -> LiveTurn:
    service = ChatService(Settings(data_dir=tmp_path), ProgramRegistry(SHIPPED), backend)
    request = TurnRequest(LocalTarget("chain_of_thought", LMChoice("m")), {"question": "q"})
    turn = LiveTurn(service.turn(request), TurnView.start("q", now_s=time.monotonic()))
    turn.start()
    return turn


async def test_the_last_snapshot_is_the_whole_turn(tmp_path: Path) -> None:
    turn = live(ScriptedBackend(scripted_answer("one two three", reasoning="because")), tmp_path)
    shots = [shot async for shot in turn.snapshots(Cadence(0.0))]
    assert shots[-1].state == "done"
    assert shots[-1].answer_text == "one two three"
    assert all(shot.running for shot in shots[:-1])


async def test_the_end_is_drawn_when_the_turn_is_kept(tmp_path: Path) -> None:
    """The conversation gets the turn after its last event, when the upstream has closed."""

    class SlowToClose(ScriptedBackend):
        async def stream(self, request: TurnRequest) -> AsyncIterator[Event]:
            try:
                async for event in super().stream(request):
                    yield event
            finally:
                await asyncio.sleep(0.05)

    backend = SlowToClose(scripted_answer("one two"), pause_s=0.01)
    service = ChatService(Settings(data_dir=tmp_path), ProgramRegistry(SHIPPED), backend)
    request = TurnRequest(LocalTarget("chain_of_thought", LMChoice("m")), {"question": "q"})
    kept: list[TurnView] = []
    turn = LiveTurn(service.turn(request), TurnView.start("q", now_s=0.0), on_end=kept.append)
    turn.start()
    async for shot in turn.snapshots(Cadence(0.001)):
        assert shot.running or kept == [shot]


async def test_many_events_are_few_snapshots(tmp_path: Path) -> None:
    backend = ScriptedBackend(scripted_answer("x", tokens=["x"] * 400), pause_s=0.0005)
    began = time.monotonic()
    shots = [shot async for shot in live(backend, tmp_path).snapshots(Cadence(0.1))]
    assert len(shots) <= (time.monotonic() - began) / 0.1 + 3


async def test_a_failure_is_the_last_snapshot_and_keeps_the_text(tmp_path: Path) -> None:
    script = [TurnStarted("local", "m"), FieldDelta("answer", "answer", "Fo"), UpstreamCut()]
    shots = [shot async for shot in live(ScriptedBackend(script), tmp_path).snapshots(Cadence(0.0))]
    assert shots[-1].state == "failed"
    assert shots[-1].answer_text == "Fo"


async def test_the_number_on_the_page_is_the_turns_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    turn = live(ScriptedBackend([TurnStarted("local", "m"), UpstreamCut()]), tmp_path)
    last = [shot async for shot in turn.snapshots(Cadence(0.0))][-1]
    (record,) = caplog.records
    assert f"Error {record.turn_id}" in str(messages(last))


async def test_stop_ends_it_at_once_also_when_nothing_comes(tmp_path: Path) -> None:
    backend = ScriptedBackend([TurnStarted("local", "m"), *scripted_answer("never")], pause_s=0.05)
    turn = live(backend, tmp_path)
    shots = turn.snapshots(Cadence(0.01))
    await anext(shots)
    backend._pause_s = 60
    await asyncio.sleep(0.1)
    async with asyncio.timeout(2):
        await turn.stop()
        last = [shot async for shot in shots][-1]
    assert last.state == "stopped"
    assert backend.open_streams == 0


async def test_whoever_ends_it_the_last_view_is_handed_over_once(tmp_path: Path) -> None:
    ended: list[TurnView] = []
    turn = live(ScriptedBackend(scripted_answer("a b c"), pause_s=0.02), tmp_path)
    turn._on_end = ended.append
    await asyncio.sleep(0.05)
    await turn.stop()
    await turn.stop()
    assert [view.state for view in ended] == ["stopped"]


async def test_it_runs_to_its_end_also_when_nobody_watches(tmp_path: Path) -> None:
    turn = live(ScriptedBackend(scripted_answer("a b c")), tmp_path)
    async with asyncio.timeout(2):
        while turn.view.running:
            await asyncio.sleep(0.001)
    assert [shot.state async for shot in turn.snapshots(Cadence(0.0))] == ["done"]


async def test_a_fault_of_the_page_itself_fails_the_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> TurnView:
        raise ValueError("secret")

    turn = live(ScriptedBackend(scripted_answer("x")), tmp_path)
    monkeypatch.setattr(TurnView, "_with_delta", broken)
    shots = [shot async for shot in turn.snapshots(Cadence(0.0))]
    assert shots[-1].failure is not None
    assert shots[-1].failure.error_id == turn._turn.request.turn_id
    assert "secret" not in shots[-1].failure.public_message


async def test_nothing_is_drawn_until_the_last_drawing_was_taken(tmp_path: Path) -> None:
    backend = ScriptedBackend(scripted_answer("x" * 50, tokens=["x"] * 50), pause_s=0.002)
    shots = [shot async for shot in live(backend, tmp_path).snapshots(Cadence(0.001), lambda: False)]
    assert len(shots) == 2  # the first, and the end, which waits for nobody
    assert shots[-1].state == "done"
    assert shots[-1].answer_text == "x" * 50
