"""A running turn as snapshots."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from dspy_demo.chat import ChatService
from dspy_demo.events import LMChoice, LocalTarget, TurnRequest
from dspy_demo.programs.registry import ProgramRegistry
from dspy_demo.programs.shipped import SHIPPED
from dspy_demo.settings import Settings
from dspy_demo.ui.chat.session import REDRAW_S, LiveTurn
from dspy_demo.ui.chat.turn_view import TurnView
from tests.scripted_backend import ScriptedBackend, scripted_answer


@pytest.mark.parametrize(("delivered", "most"), [(True, None), (False, 1)], ids=["taken", "not taken"])
async def test_redraws_are_few_and_wait_for_the_last_one_but_the_end_waits_for_nobody(
    tmp_path: Path, delivered: bool, most: int | None
) -> None:
    backend = ScriptedBackend(scripted_answer("x" * 300, tokens=["x"] * 300), pause_s=0.001)
    service = ChatService(Settings(data_dir=tmp_path), ProgramRegistry(SHIPPED), backend)
    request = TurnRequest(LocalTarget("chain_of_thought", LMChoice("m")), {"question": "q"})
    ended: list[TurnView] = []
    began = time.monotonic()
    turn = LiveTurn(service, request, service.programs.default, on_end=ended.append)
    shots = [shot async for shot in turn.snapshots(lambda: delivered)]
    assert len(shots) <= (most or (time.monotonic() - began) / REDRAW_S + 2)
    assert shots[-1:] == ended
    assert (shots[-1].state, shots[-1].answer_text) == ("done", "x" * 300)
