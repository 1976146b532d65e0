"""Whose answers DSPy's cache may hold, and for whom."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dspy_demo.events import LMChoice, Visitor
from dspy_demo.guests.limits import GuestLimits
from tests.fake_openai import FakeOpenAI
from tests.services import NATIVE, house, settings_for

OWNER, ANN, BEN = Visitor("owner", "me"), Visitor("guest", "ann"), Visitor("guest", "ben")


async def test_guests_neither_read_nor_write_the_cache(fake_openai: FakeOpenAI, data_dir: Path) -> None:
    settings, heard = settings_for(data_dir, guest_output_max_tokens=500), []
    choice = LMChoice(NATIVE, fake_openai.url, max_tokens=500)  # the very requests of a guest
    async with house(settings, choice, limits=GuestLimits(settings)) as home:
        for visitor in (ANN, BEN, OWNER, OWNER, ANN, OWNER):
            turn = await home.run(replace(home.request("the same question"), visitor=visitor))
            heard.append(turn.finished.usage.cached)
    assert heard == [False, False, False, True, False, True]
    assert len(fake_openai.streams) == 4


BEST_OF_THREE = """
import dspy
class Three(dspy.Module):
    def __init__(self):
        super().__init__()
        answer = dspy.Predict("question -> answer")
        self.best = dspy.BestOfN(answer, N=3, reward_fn=lambda *_: 0.0, threshold=1.0)
    def forward(self, question: str):
        return self.best(question=question)
"""


async def test_the_attempts_of_a_program_are_not_one_answer(
    ask: Any, fake_openai: FakeOpenAI, own_program: Any
) -> None:
    await ask(spec=own_program(BEST_OF_THREE), choice={"cache": True})
    assert len(fake_openai.streams) == 3


@pytest.mark.filterwarnings("ignore:rollout_id has no effect")
@pytest.mark.parametrize("temperature", [None, 0.0])
async def test_an_answer_from_the_cache_is_whole_free_and_has_no_deltas(
    over: Any, temperature: float | None
) -> None:
    async with over(choice={"cache": True, "temperature": temperature}) as home:
        first, second = [await home.ask("the same question") for _ in range(2)]
    assert not first.finished.usage.cached
    assert second.deltas == [] and second.finished.first_delta_s is None
    assert second.finished.outputs == first.finished.outputs
    assert second.finished.usage.cached and second.finished.usage.total_tokens == 0
