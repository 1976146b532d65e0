"""A running turn as snapshots."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dspy_demo.chat import ChatService
from dspy_demo.events import LMChoice, LocalTarget, TurnRequest, TurnStarted
from dspy_demo.programs.registry import ProgramRegistry
from dspy_demo.programs.shipped import SHIPPED
from dspy_demo.settings import Settings
from dspy_demo.ui.chat.live import REDRAW_S, LiveTurn
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


@pytest.mark.parametrize(("delivered", "most"), [(True, None), (False, 1)], ids=["taken", "not taken"])
async def test_redraws_are_few_and_wait_for_the_last_one_but_the_end_waits_for_nobody(
    start: Start, ended: list[TurnView], delivered: bool, most: int | None
) -> None:
    began = time.monotonic()
    turn = start(ScriptedBackend(scripted_answer("x" * 300, tokens=["x"] * 300), pause_s=0.001))
    shots = [shot async for shot in turn.snapshots(lambda: delivered)]
    assert len(shots) <= (most or (time.monotonic() - began) / REDRAW_S + 2)
    assert shots[-1:] == ended
    assert (shots[-1].state, shots[-1].answer_text) == ("done", "x" * 300)


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
