"""Thumbs mean their turn, and nobody else's."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any, cast

import gradio as gr
import pytest

from dspy_demo.events import LMChoice, Visitor
from dspy_demo.guests.limits import Bounds, GuestLimits
from dspy_demo.tracing.tracer import Tracer
from dspy_demo.ui.chat.handlers import ChatHandlers
from dspy_demo.ui.chat.session import Session, Sessions
from dspy_demo.ui.chat.widgets import ChatWidgets
from tests.services import house, settings_for
from tests.ui.chat.test_session import asked
from tests.visitors import STRANGER, request_of

REQUEST = request_of(STRANGER)


class NotingTracer(Tracer):
    def __init__(self) -> None:
        super().__init__()
        self.ratings: list[tuple[str, bool | None, str | None]] = []

    def feedback(self, trace_id: str, value: bool | None, comment: str | None = None, user: str = "") -> None:
        assert user
        self.ratings.append((trace_id, value, comment))


@pytest.fixture
async def rating(data_dir: Path) -> AsyncIterator[ChatHandlers]:
    settings = settings_for(data_dir)
    limits = GuestLimits(settings, bounds=Bounds(turns_per_minute=4))
    async with house(settings, LMChoice("scripted/model"), limits=limits) as home:
        with gr.Blocks(analytics_enabled=False):
            page = ChatWidgets([home.programs.default], home.programs.default)
        home.service.tracer = NotingTracer()
        chat: Any = partial(ChatHandlers, home.service, Sessions(b""), page)
        yield chat(picks=None, demo=None, mlflow_url=str)


@pytest.fixture
def session(rating: ChatHandlers) -> Session:
    session = rating.sessions.open("tab", STRANGER)
    for number, trace_id in enumerate(("tr-0", "tr-1", None)):
        session.end(asked(str(number), trace_id=trace_id))
    return session


def ratings(handlers: ChatHandlers) -> list[Any]:
    return cast(NotingTracer, handlers.service.tracer).ratings


def thumb(session: Session, number: int, liked: bool | str) -> tuple[gr.LikeData, list[Any]]:
    """A click below the answer of a turn, and the chat: Gradio tells the first message of the answer."""
    before = sum(len(turn.drawn) for turn in session.turns[:number])
    return gr.LikeData(None, {"index": before + 1, "value": [], "liked": liked}), session.drawn(
        lambda view: ""
    )


async def test_a_thumb_is_for_its_turn_and_a_comment_stays_with_it(
    rating: ChatHandlers, session: Session
) -> None:
    update = await rating.rate(*thumb(session, 1, True), REQUEST)
    assert update[rating.page.rating]["visible"] is True
    assert [turn.view.rated for turn in session.turns] == [None, True, None]
    said = "Short and right"
    await rating.comment(f"  {said} ", "turn-1", REQUEST)
    await rating.rate(*thumb(session, 1, False), REQUEST)
    taken_back = await rating.rate(*thumb(session, 1, ""), REQUEST)
    assert taken_back[rating.page.rating]["visible"] is False
    expected = [("tr-1", True, None), ("tr-1", True, said), ("tr-1", False, said), ("tr-1", None, None)]
    assert ratings(rating) == expected
    refused = await rating.rate(*thumb(session, 1, True), REQUEST)
    assert "in a short time" in refused[rating.page.notice]


async def test_what_has_no_trace_or_no_thumb_is_not_rated(rating: ChatHandlers, session: Session) -> None:
    update = await rating.rate(*thumb(session, 2, True), REQUEST)
    assert "this answer has no trace" in update[rating.page.notice]
    await rating.comment("words without a thumb", "turn-0", REQUEST)
    chat = [{"role": "user"}, {"role": "assistant", "metadata": {"id": "turn-0"}}]
    for index in (-1, 99, None, "0", [], [[]], [0, 0]):
        clicked = gr.LikeData(None, {"index": index, "value": [], "liked": True})
        assert "no longer part of the chat" in (await rating.rate(clicked, chat, REQUEST))[rating.page.notice]
    await rating.rate(*thumb(session, 1, True), request_of(Visitor("guest", "another")))
    assert ratings(rating) == []
