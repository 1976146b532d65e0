"""The chat's handlers: refusals lose nothing, loads cost little, thumbs mean their turn."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, cast

import gradio as gr
import pytest
from gradio.components import Component

from dspy_demo.events import LMChoice, LocalTarget, Visitor
from dspy_demo.guests.limits import Bounds, GuestLimits
from dspy_demo.programs.spec import ProgramSpec
from dspy_demo.tracing.tracer import Tracer
from dspy_demo.ui.chat.handlers import ChatHandlers
from dspy_demo.ui.chat.rating import RatingHandlers
from dspy_demo.ui.chat.session import Session, Sessions
from dspy_demo.ui.chat.widgets import USE_LOCAL, Action, ChatWidgets
from dspy_demo.ui.sections.picks import SidebarPicks
from tests.scripted_backend import ScriptedBackend, scripted_answer
from tests.services import house, settings_for
from tests.ui.chat.test_session import asked
from tests.visitors import STRANGER, request_of

REQUEST = request_of(STRANGER)
Given = Mapping[Component, Any]


class NotingTracer(Tracer):
    def __init__(self) -> None:
        self.ratings: list[tuple[str, bool | None, str | None]] = []

    def feedback(self, trace_id: str, value: bool | None, comment: str | None = None, user: str = "") -> None:
        assert user
        self.ratings.append((trace_id, value, comment))


class OnePick:
    """Nothing can be picked: all goes to one program."""

    def __init__(self, spec: ProgramSpec) -> None:
        self._spec = spec

    def target(self, given: Given) -> tuple[LocalTarget, ProgramSpec]:
        return LocalTarget(self._spec.name, LMChoice("scripted/model")), self._spec

    def ways_out(self, given: Given, error: Exception) -> list[Action]:
        return [USE_LOCAL]


@pytest.fixture
async def chat(data_dir: Path) -> AsyncIterator[ChatHandlers]:
    settings = settings_for(data_dir)
    backend = ScriptedBackend(scripted_answer("four"))
    limits = GuestLimits(settings, bounds=Bounds(turns_per_minute=2, total_per_minute=3))
    async with house(settings, LMChoice("scripted/model"), local=backend, limits=limits) as home:
        spec = home.programs.default
        with gr.Blocks(analytics_enabled=False) as demo:
            page = ChatWidgets([spec], spec)
        home.service.tracer = NotingTracer()
        picks = cast(SidebarPicks, OnePick(spec))
        yield ChatHandlers(home.service, Sessions(b""), page, picks=picks, demo=demo, mlflow_url=lambda: "")


@pytest.fixture
async def session(chat: ChatHandlers) -> Session:
    await chat.load(None, REQUEST)
    session = chat.sessions.get("tab", STRANGER)
    assert session is not None
    return session


async def to_the_end(chat: ChatHandlers) -> None:
    _ = [messages async for messages in chat.draw(REQUEST)]
    await chat.settle(REQUEST)


async def test_a_refused_question_stays_in_the_composer(chat: ChatHandlers, session: Session) -> None:
    for question in ("first", "second"):
        accepted = await chat.send({chat.page.composer: question}, REQUEST)
        assert accepted[chat.page.composer]["value"] == ""
        await to_the_end(chat)
    refused = await chat.send({chat.page.composer: "third"}, REQUEST)
    assert "The limit here is 2 a minute" in refused[chat.page.notice]
    assert 'data-do="use-local"' in refused[chat.page.notice]
    assert "value" not in refused[chat.page.composer]
    assert refused[chat.page.composer]["submit_btn"] == "Send"
    clicked = gr.RetryData(None, {"index": 0, "value": "first"})
    refused = await chat.retry(clicked, {chat.page.chatbot: session.drawn}, REQUEST)
    assert "Try again in" in refused[chat.page.notice]
    assert [turn.view.answer_text for turn in session.turns] == ["four", "four"]


# Thumbs


@pytest.fixture
def rating(chat: ChatHandlers, session: Session) -> RatingHandlers:
    for number, trace_id in enumerate(("tr-0", "tr-1", None)):
        session.end(asked(str(number), trace_id=trace_id))
    return RatingHandlers(chat.service, chat.sessions, chat.page)


def ratings(handlers: RatingHandlers) -> list[Any]:
    assert isinstance(handlers.service.tracer, NotingTracer)
    return handlers.service.tracer.ratings


def thumb(session: Session, number: int, liked: bool | str) -> tuple[gr.LikeData, list[Any]]:
    """A click below the answer of a turn, and the chat: Gradio tells the first message of the answer."""
    before = sum(len(turn.drawn) for turn in session.turns[:number])
    return gr.LikeData(None, {"index": before + 1, "value": [], "liked": liked}), session.drawn


async def test_a_thumb_is_for_its_turn_and_a_comment_stays_with_it(
    rating: RatingHandlers, session: Session
) -> None:
    update = await rating.rate(*thumb(session, 1, True), REQUEST)
    assert update[rating.page.rating]["visible"] is True
    assert [turn.view.rated for turn in session.turns] == [None, True, None]
    await rating.comment("  Short and right ", "turn-1", REQUEST)
    await rating.rate(*thumb(session, 1, False), REQUEST)
    taken_back = await rating.rate(*thumb(session, 1, ""), REQUEST)
    assert taken_back[rating.page.rating]["visible"] is False
    said = "Short and right"
    assert ratings(rating) == [
        ("tr-1", True, None),
        ("tr-1", True, said),
        ("tr-1", False, said),
        ("tr-1", None, None),
    ]
    refused = await rating.rate(*thumb(session, 1, True), REQUEST)
    assert "The limit here is 4 a minute" in refused[rating.page.notice]


async def test_what_has_no_trace_or_no_thumb_is_not_rated(rating: RatingHandlers, session: Session) -> None:
    update = await rating.rate(*thumb(session, 2, True), REQUEST)
    assert "this answer has no trace" in update[rating.page.notice]
    await rating.comment("words without a thumb", "turn-0", REQUEST)
    chat = [{"role": "user"}, {"role": "assistant", "metadata": {"id": "turn-0"}}]
    for index in (-1, 99, None, "0", [], [[]], [0, 0]):
        clicked = gr.LikeData(None, {"index": index, "value": [], "liked": True})
        assert "no longer part of the chat" in (await rating.rate(clicked, chat, REQUEST))[rating.page.notice]
    await rating.rate(*thumb(session, 1, True), request_of(Visitor("guest", "another")))
    assert ratings(rating) == []
