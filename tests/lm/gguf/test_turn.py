"""A model file behind the services of the app: what a user sees and gets."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from dspy_demo.errors import ModelSetupError
from dspy_demo.events import FieldDelta, LMChoice, Message, Status, TurnFailed
from dspy_demo.lm.catalog import LMCatalog
from dspy_demo.lm.chat_lm import ChatLM
from dspy_demo.lm.choices import Detection, detect
from dspy_demo.lm.gguf.line import close_line
from dspy_demo.lm.local_models import LocalModel
from tests.services import house, settings_for


@pytest.fixture
def choice(tiny: LocalModel) -> LMChoice:
    return LMChoice(f"local/{tiny.path}", max_tokens=80, cache=False)


async def test_a_turn_streams_and_tells_what_it_waits_for(data_dir: Path, choice: LMChoice) -> None:
    close_line()
    async with house(settings_for(data_dir), choice) as services:
        heard = await services.ask("What is 2 + 2?")
        assert heard.finished.outputs["answer"] and heard.finished.outputs["reasoning"]
        assert heard.finished.usage.completion_tokens > 10 and not heard.finished.usage.cached
        assert len([event for event in heard.events if isinstance(event, FieldDelta)]) > 2
        texts = [event.text for event in heard.events if isinstance(event, Status)]
        assert any(text.startswith("Loading tiny: needs about") for text in texts)
        assert any(text.startswith("Read the chat") for text in texts)


async def test_every_shipped_program_ends_with_an_answer(data_dir: Path, choice: LMChoice) -> None:
    async with house(settings_for(data_dir), choice) as services:
        for program in ("predict", "react", "draft_and_review"):
            heard = await services.ask("What is 2 + 2?", program=program)
            assert heard.finished.outputs["answer"], program


async def test_a_long_chat_loses_its_oldest_turns_with_a_notice(data_dir: Path, choice: LMChoice) -> None:
    async with house(settings_for(data_dir, local_context_tokens=2048), choice) as services:
        history = [
            Message(role, f"{role} {number} " * 40) for number in range(6) for role in ("user", "assistant")
        ]
        heard = await services.ask("And now?", history=history)
        assert heard.finished.outputs["answer"]
        texts = [event.text for event in heard.events if isinstance(event, Status)]
        assert any("oldest" in text and "left out" in text for text in texts)


async def test_two_chats_at_once_both_end(data_dir: Path, choice: LMChoice) -> None:
    async with house(settings_for(data_dir), choice) as services:
        heard = await asyncio.gather(*(services.ask(f"What is {number} + 2?") for number in range(3)))
        assert all(turn.finished.outputs["answer"] for turn in heard)
        lines = [event.text for turn in heard for event in turn.events if isinstance(event, Status)]
        assert any("1st in line" in text for text in lines)


async def test_a_damaged_file_fails_in_one_sentence(data_dir: Path, tmp_path: Path) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(b"GGUF" + bytes(200))
    async with house(settings_for(data_dir), LMChoice(f"local/{path}", cache=False)) as services:
        failed = (await services.ask("Hi")).end
        assert isinstance(failed, TurnFailed) and failed.code == "model_setup"
        assert "damaged" in failed.public_message or "could not be loaded" in failed.public_message


async def test_the_flag_takes_a_file_and_refuses_one_that_is_not_there(
    data_dir: Path, tiny: LocalModel
) -> None:
    detection = await detect(settings_for(data_dir, lm=f"local/{tiny.path}"))
    assert detection.choice.model == f"local/{tiny.path}"
    with pytest.raises(ModelSetupError, match="There is no file"):
        await detect(settings_for(data_dir, lm="local/nowhere.gguf"))


async def test_the_catalog_builds_it_without_litellm_and_keeps_files_apart(
    data_dir: Path, tiny: LocalModel, choice: LMChoice
) -> None:
    settings = settings_for(data_dir, local_context_tokens=1024, local_threads=3)
    catalog = LMCatalog(settings, Detection(choice, "", ()))
    lm = catalog.lm(choice)
    assert isinstance(lm, ChatLM) and not isinstance(lm.engine, str)
    assert (lm.engine.context_tokens, lm.engine.threads) == (1024, 3)
    assert lm.cache_scope is not None and lm.kwargs["max_tokens"] == 80
    await catalog.aclose()
