"""Thumbs: which turn they mean, what is kept, and what goes to MLflow."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import gradio as gr
import pytest

from dspy_demo.chat import ChatService
from dspy_demo.events import FieldDelta, TurnFinished, TurnStarted, Visitor
from dspy_demo.guests.limits import GuestLimits
from dspy_demo.settings import Settings
from dspy_demo.tracing.base import NoTracer
from dspy_demo.ui.chat.conversation import Conversation
from dspy_demo.ui.chat.rating import NOT_OF_NOW, RatingHandlers, draw_rating_box
from dspy_demo.ui.chat.render import WireMessage
from dspy_demo.ui.chat.saved import from_json, to_json
from dspy_demo.ui.chat.tabs import Tab, Tabs
from dspy_demo.ui.chat.turn_view import TurnView
from tests.visitors import OWNER, STRANGER, request_of

REQUEST = request_of(STRANGER)


class NotingTracer(NoTracer):
    def __init__(self) -> None:
        self.ratings: list[tuple[str, bool | None, str | None]] = []

    def feedback(self, trace_id: str, value: bool | None, comment: str | None = None, user: str = "") -> None:
        assert user
        self.ratings.append((trace_id, value, comment))


def turn(number: int, trace_id: str | None) -> TurnView:
    view = TurnView.start(f"Question {number}", now_s=0, turn_id=f"turn-{number}")
    for event in (
        TurnStarted("local", "m"),
        FieldDelta("reasoning", "reasoning", "Thus."),
        TurnFinished({"reasoning": "Thus.", "answer": "Yes."}, trace_id=trace_id),
    ):
        view = view.apply(event, 1.0)
    return view


def service_with(tracer: NotingTracer) -> SimpleNamespace:
    limits = GuestLimits(Settings(guests_turns_per_minute=3), guest_turns_per_minute=2)
    return SimpleNamespace(tracer=tracer, limits=limits)


@pytest.fixture
async def rating() -> AsyncIterator[RatingHandlers]:
    with gr.Blocks(analytics_enabled=False):
        box, notice, saved = draw_rating_box(), gr.HTML(), gr.BrowserState()
    yield RatingHandlers(Tabs(window=40), cast(ChatService, service_with(NotingTracer())), box, notice, saved)


@pytest.fixture
def tab(rating: RatingHandlers) -> Tab:
    tab = rating.tabs.open("tab", STRANGER)
    for number, trace_id in enumerate(("tr-0", "tr-1", None)):
        tab.end(turn(number, trace_id))
    return tab


def thumb(tab: Tab, number: int, liked: bool | str) -> tuple[gr.LikeData, list[WireMessage]]:
    """A click below the answer of a turn, and the chat: Gradio tells the first message of the answer."""
    before = sum(len(done.drawn) for done in tab.conversation.turns[:number])
    return gr.LikeData(None, {"index": before + 1, "value": [], "liked": liked}), tab.conversation.drawn(0)


def ratings(handlers: RatingHandlers) -> list[Any]:
    return cast(NotingTracer, handlers.service.tracer).ratings


async def test_a_thumb_is_for_its_turn(rating: RatingHandlers, tab: Tab) -> None:
    update = await rating.rate(*thumb(tab, 1, True), REQUEST)
    assert ratings(rating) == [("tr-1", True, None)]
    assert tab.conversation.ratings(0) == [None, "Like", None]
    assert update[rating.box.row]["visible"] is True


async def test_a_comment_follows_its_thumb_and_stays_with_another(rating: RatingHandlers, tab: Tab) -> None:
    await rating.rate(*thumb(tab, 0, True), REQUEST)
    await rating.comment("  Short and right ", "turn-0", REQUEST)
    await rating.rate(*thumb(tab, 0, False), REQUEST)
    assert ratings(rating) == [
        ("tr-0", True, None),
        ("tr-0", True, "Short and right"),
        ("tr-0", False, "Short and right"),
    ]


async def test_the_same_thumb_again_takes_it_back(rating: RatingHandlers, tab: Tab) -> None:
    await rating.rate(*thumb(tab, 0, True), REQUEST)
    update = await rating.rate(*thumb(tab, 0, ""), REQUEST)
    assert ratings(rating)[-1] == ("tr-0", None, None)
    assert update[rating.box.row]["visible"] is False
    await rating.comment("too late", "turn-0", REQUEST)
    assert len(ratings(rating)) == 2


async def test_an_answer_without_a_trace_cannot_be_rated(rating: RatingHandlers, tab: Tab) -> None:
    update = await rating.rate(*thumb(tab, 2, True), REQUEST)
    assert "this answer has no trace" in update[rating.notice]
    assert ratings(rating) == []


@pytest.mark.parametrize("index", [-1, 99, None, "0", [], [[]], [0, 0]])
async def test_a_click_on_nothing_rates_nothing(rating: RatingHandlers, tab: Tab, index: object) -> None:
    chat = [{"role": "user"}, {"role": "assistant", "metadata": {"id": "turn-0"}}]
    await rating.rate(gr.LikeData(None, {"index": index, "value": [], "liked": True}), chat, REQUEST)
    assert ratings(rating) == []


async def test_a_tab_of_another_life_changes_nothing(rating: RatingHandlers) -> None:
    update = await rating.rate(
        *thumb(Tab(STRANGER, 40, Conversation().adding(turn(0, "tr-0"))), 0, True), REQUEST
    )
    assert "no longer part of the chat" in update[rating.notice]
    await rating.comment("words", "turn-0", REQUEST)
    assert ratings(rating) == []


async def test_another_visitor_with_the_hash_rates_nothing(rating: RatingHandlers, tab: Tab) -> None:
    other = request_of(Visitor("guest", "another"))
    await rating.rate(*thumb(tab, 1, True), other)
    await rating.rate(*thumb(tab, 1, True), REQUEST)
    await rating.comment("theirs", "turn-1", other)
    assert ratings(rating) == [("tr-1", True, None)]


async def test_a_trace_that_a_guests_browser_names_is_not_rated(rating: RatingHandlers) -> None:
    saved = Conversation().adding(dataclasses.replace(turn(0, "tr-of-another"), rated=True))
    for visitor in (STRANGER, OWNER):
        rating.tabs.open("tab", visitor, saved=saved)
    tab = rating.tabs.get("tab", STRANGER)
    assert tab is not None
    assert NOT_OF_NOW in (await rating.rate(*thumb(tab, 0, False), REQUEST))[rating.notice]
    assert NOT_OF_NOW in (await rating.comment("words", "turn-0", REQUEST))[rating.notice]
    assert ratings(rating) == []
    await rating.rate(*thumb(tab, 0, False), request_of(OWNER))  # it is their own database
    assert ratings(rating) == [("tr-of-another", False, None)]


async def test_ratings_are_bounded(rating: RatingHandlers, tab: Tab) -> None:
    updates = [await rating.rate(*thumb(tab, 0, number % 2 == 0), REQUEST) for number in range(7)]
    assert len(ratings(rating)) == 4
    assert "You are rating faster than 4 times a minute" in updates[-1][rating.notice]


async def test_a_rating_survives_the_browser(rating: RatingHandlers, tab: Tab) -> None:
    await rating.rate(*thumb(tab, 1, False), REQUEST)
    again = from_json(to_json(tab.conversation))
    assert again.ratings(0) == [None, "Dislike", None]


def test_links_to_traces_come_and_go_with_mlflows_pages() -> None:
    conversation = Conversation().adding(turn(0, "tr-0")).adding(turn(1, None))
    linked = conversation.linked(lambda view: f"http://there/{view.trace_id}" if view.trace_id else "")
    assert 'href="http://there/tr-0"' in str(linked.turns[0].drawn)
    assert linked.turns[1] is conversation.turns[1]
    assert linked.linked(lambda _: "") == conversation
