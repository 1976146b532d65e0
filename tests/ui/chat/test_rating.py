"""Thumbs mean their turn, and nobody else's."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import gradio as gr
import pytest

from dspy_demo.events import LMChoice, LocalTarget, Visitor
from dspy_demo.guests.limits import Bounds, GuestLimits
from dspy_demo.ui.chat.section import Chat
from dspy_demo.ui.chat.session import Session
from tests.services import house, settings_for
from tests.ui.chat.test_session import asked
from tests.visitors import STRANGER, request_of

REQUEST = request_of(STRANGER)


@pytest.fixture
async def chat(data_dir: Path) -> AsyncIterator[Any]:
    settings = settings_for(data_dir)
    limits = GuestLimits(settings, bounds=Bounds(turns_per_minute=4))
    async with house(settings, LMChoice("scripted/model"), limits=limits) as home:
        with gr.Blocks(analytics_enabled=False):
            chat = Chat(home.service, Mock(), mlflow_url=str)
            chat.draw([], LocalTarget(home.programs.default.name, LMChoice("m")))
        home.service.tracer = Mock()
        yield chat


@pytest.fixture
def session(chat: Chat) -> Session:
    session = chat.sessions.open("tab", STRANGER)
    for number, trace_id in enumerate(("tr-0", "tr-1", None)):
        session.end(asked(str(number), trace_id=trace_id))
    return session


def thumb(session: Session, number: int, liked: bool | str) -> tuple[gr.LikeData, list[Any]]:
    """A click below the answer of a turn, and the chat: Gradio tells the first message of the answer."""
    before = sum(len(turn.drawn) for turn in session.turns[:number])
    return gr.LikeData(None, {"index": before + 1, "value": [], "liked": liked}), session.drawn(lambda _: "")


async def test_a_thumb_is_for_its_turn_and_a_comment_stays_with_it(chat: Any, session: Session) -> None:
    update = await chat.rate(*thumb(session, 1, True), REQUEST)
    assert update[chat.widgets.rating]["visible"] is True
    assert [turn.view.rated for turn in session.turns] == [None, True, None]
    said = "Short and right"
    await chat.comment(f"  {said} ", REQUEST)
    await chat.rate(*thumb(session, 1, False), REQUEST)
    taken_back = await chat.rate(*thumb(session, 1, ""), REQUEST)
    assert taken_back[chat.widgets.rating]["visible"] is False
    expected = [("tr-1", True, None), ("tr-1", True, said), ("tr-1", False, said), ("tr-1", None, None)]
    assert [call.args for call in chat.service.tracer.feedback.call_args_list] == expected
    refused = await chat.rate(*thumb(session, 1, True), REQUEST)
    assert "a lot" in refused[chat.widgets.notice]


async def test_what_has_no_trace_or_no_thumb_is_not_rated(chat: Any, session: Session) -> None:
    update = await chat.rate(*thumb(session, 2, True), REQUEST)
    assert "this answer has no trace" in update[chat.widgets.notice]
    await chat.comment("words without a thumb", REQUEST)
    shown = [{"role": "user"}, {"role": "assistant", "metadata": {"id": "turn-0"}}]
    for index in (-1, 99, None, "0", [], [[]], [0, 0]):
        clicked = gr.LikeData(None, {"index": index, "value": [], "liked": True})
        assert "no longer part of the chat" in (await chat.rate(clicked, shown, REQUEST))[chat.widgets.notice]
    await chat.rate(*thumb(session, 1, True), request_of(Visitor("guest", "another")))
    assert not chat.service.tracer.feedback.called
