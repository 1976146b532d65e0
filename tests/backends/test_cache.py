"""Whose answers DSPy's cache may hold, and for whom."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from dspy_demo.events import LMChoice, Visitor
from dspy_demo.guests.limits import GuestLimits
from dspy_demo.programs.registry import ProgramRegistry
from dspy_demo.programs.spec import ProgramSpec
from tests.fake_openai import FakeOpenAI
from tests.services import House, house, settings_for

OWNER, ANN, BEN = Visitor("owner", "me"), Visitor("guest", "ann"), Visitor("guest", "ben")


async def cached(home: House, visitor: Visitor) -> bool:
    heard = await home.run(replace(home.request("the same question"), visitor=visitor))
    return heard.finished.usage.cached


async def test_guests_neither_read_nor_write_the_cache(fake_openai: FakeOpenAI, data_dir: Path) -> None:
    settings = settings_for(data_dir, guest_output_max_tokens=500)
    choice = LMChoice("openai/fake", fake_openai.url, max_tokens=500)  # the very requests of a guest
    async with house(settings, choice, limits=GuestLimits(settings)) as home:
        heard = [await cached(home, visitor) for visitor in (ANN, BEN, OWNER, OWNER, ANN, OWNER)]
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
    fake_openai: FakeOpenAI, data_dir: Path, own_program: Callable[[str], ProgramSpec]
) -> None:
    spec = own_program(BEST_OF_THREE)
    choice = LMChoice("openai/fake", fake_openai.url)
    async with house(settings_for(data_dir), choice, programs=ProgramRegistry([spec])) as home:
        await home.ask("a question", program=spec.name)
    assert len(fake_openai.streams) == 3


@pytest.mark.filterwarnings("ignore:rollout_id has no effect")
async def test_a_temperature_of_zero_is_cached(fake_openai: FakeOpenAI, data_dir: Path) -> None:
    choice = LMChoice("openai/fake", fake_openai.url, temperature=0.0)
    async with house(settings_for(data_dir), choice) as home:
        assert [await cached(home, OWNER) for _ in range(2)] == [False, True]
