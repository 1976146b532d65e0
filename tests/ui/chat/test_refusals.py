"""A guest who is refused loses nothing: the question stays where it was typed, or can be asked again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from dspy_demo.events import LMChoice
from dspy_demo.guests.limits import GuestLimits
from dspy_demo.ui.chat.cadence import Cadence
from dspy_demo.ui.chat.handlers import ChatHandlers
from dspy_demo.ui.chat.tabs import Tabs
from dspy_demo.ui.layout import draw_page
from tests.scripted_backend import ScriptedBackend, scripted_answer
from tests.services import house, settings_for
from tests.visitors import STRANGER, request_of

REQUEST = request_of(STRANGER)


@pytest.fixture
async def chat(data_dir: Path) -> AsyncIterator[ChatHandlers]:
    settings = settings_for(data_dir)
    backend = ScriptedBackend(scripted_answer("four"))
    limits = GuestLimits(settings, guest_turns_per_minute=1)
    async with house(settings, LMChoice("scripted/model"), local=backend, limits=limits) as home:
        with gr.Blocks(analytics_enabled=False):
            page = draw_page(home.catalog.detection, home.programs.specs(), home.programs.default)
        chat = ChatHandlers(home.service, settings, Tabs(window=40), page, Cadence(0.0))
        await chat.load(None, REQUEST)
        yield chat


def typed(chat: ChatHandlers, text: str) -> dict[Any, Any]:
    return {component: component.value for component in chat.page.turn_inputs} | {chat.page.composer: text}


async def to_the_end(chat: ChatHandlers) -> list[Any]:
    drawn = [messages async for messages in chat.draw(REQUEST)]
    await chat.settle(REQUEST)
    return drawn


async def test_the_question_stays_in_the_composer(chat: ChatHandlers) -> None:
    accepted = await chat.send(typed(chat, "first"), REQUEST)
    assert accepted[chat.page.composer]["value"] == ""
    await to_the_end(chat)
    refused = await chat.send(typed(chat, "second"), REQUEST)
    assert "You are asking faster than 1 times a minute" in refused[chat.page.notice]
    assert "value" not in refused[chat.page.composer]
    assert refused[chat.page.composer]["submit_btn"] == "Send"
    assert len(chat.tabs.get("tab", STRANGER).conversation.turns) == 1


async def test_a_retry_that_is_refused_keeps_the_turn(chat: ChatHandlers) -> None:
    await chat.send(typed(chat, "first"), REQUEST)
    await to_the_end(chat)
    shown = chat.tabs.get("tab", STRANGER).conversation.drawn(0)
    clicked = gr.RetryData(None, {"index": 0, "value": "first"})
    refused = await chat.retry(clicked, typed(chat, "") | {chat.page.chatbot: shown}, REQUEST)
    assert "Try again in" in refused[chat.page.notice]
    turns = chat.tabs.get("tab", STRANGER).conversation.turns
    assert [turn.view.answer_text for turn in turns] == ["four"]
