"""An app over the fake upstream of a test, and a user's own program, for the tests of the backends."""

from __future__ import annotations

import itertools
import textwrap

import pytest

from dspy_demo.events import LMChoice
from dspy_demo.programs.own import load_program
from dspy_demo.programs.registry import ProgramRegistry
from tests.services import NATIVE, house, settings_for

_numbers = itertools.count()


@pytest.fixture
def own_program(tmp_path):
    """Write source into a file of its own and load the program in it."""

    def load(source):
        file = tmp_path / f"own_program_{next(_numbers)}.py"
        file.write_text(textwrap.dedent(source))
        return load_program(str(file))

    return load


@pytest.fixture
def over(fake_openai, data_dir):
    """The house over the fake upstream: ``over(model, spec=..., choice={"cache": True}, **settings)``."""

    def made(model=NATIVE, *, spec=None, choice=None, **settings):
        chosen = LMChoice(model, fake_openai.url, **({"cache": False} | (choice or {})))
        programs = ProgramRegistry([spec]) if spec else None
        return house(settings_for(data_dir, **settings), chosen, programs=programs)

    return made


@pytest.fixture
def ask(over):
    """Ask that house one question; all that it said."""

    async def asked(question="I am visitor-7.", model=NATIVE, **more):
        history, spec = more.pop("history", ()), more.get("spec")
        program = more.pop("program", spec.name if spec else "chain_of_thought")
        async with over(model, **more) as home:
            return await home.ask(question, program=program, history=history)

    return asked
