"""A visitor's conversation: memory, going back, the window."""

from __future__ import annotations

import json

import orjson
import pytest

from dspy_demo.events import FieldDelta, Message, TurnFailed, TurnFinished, TurnStarted, Usage
from dspy_demo.ui.chat.conversation import Conversation
from dspy_demo.ui.chat.turn_view import TurnView


def asked(question: str, answer: str = "4") -> TurnView:
    view = TurnView.start(question, now_s=0.0, answer_field="answer")
    view = view.apply(TurnStarted("local", "m"), 0.1)
    return view.apply(TurnFinished({"reasoning": "Hm.", "answer": answer}, Usage(3, 4)), 1.0)


def talk(*questions: str) -> Conversation:
    conversation = Conversation()
    for question in questions:
        conversation = conversation.adding(asked(question, f"answer to {question}"))
    return conversation


def test_the_history_has_questions_and_answers_in_turns() -> None:
    assert talk("a", "b").history(1000) == (
        Message("user", "a"),
        Message("assistant", "answer to a"),
        Message("user", "b"),
        Message("assistant", "answer to b"),
    )


def test_a_stopped_turn_counts_where_it_has_an_answer() -> None:
    silent = TurnView.start("x", now_s=0.0).stopped(1.0)
    partial = TurnView.start("y", now_s=0.0).apply(FieldDelta("answer", "answer", "So"), 0.5).stopped(1.0)
    failed = TurnView.start("z", now_s=0.0).apply(TurnFailed("x", "No.", True), 1.0)
    history = Conversation().adding(silent).adding(partial).adding(failed).history(1000)
    assert history == (Message("user", "y"), Message("assistant", "So"))


def test_the_history_is_cut_to_the_latest_turns_that_fit() -> None:
    assert talk("a", "b", "c").history(30) == talk("b", "c").history(1000)
    assert talk("a").history(3) == ()
    assert talk("a", "b").answered() == 2


def test_only_the_answer_field_is_remembered() -> None:
    view = TurnView.start("q", now_s=0.0, answer_field="answer")
    view = view.apply(TurnFinished({"answer": "4", "confidence": 0.9}), 1.0)
    assert view.answer_text == "4"


def test_without_an_answer_field_all_outputs_are_remembered_by_name() -> None:
    view = TurnView.start("q", now_s=0.0).apply(TurnFinished({"title": "A", "tags": ["b"]}), 1.0)
    assert view.answer_text == 'title: A\n\ntags: [\n  "b"\n]'


def test_going_back_leaves_what_came_before() -> None:
    three = talk("a", "b", "c")
    assert three.before(1) == three.before(2).before(1) == Conversation(three.turns[:1])
    assert talk("a").before(0) == Conversation()


def test_finished_turns_are_drawn_once() -> None:
    conversation = talk("a", "b")
    assert conversation.drawn(0)[0] is conversation.adding(asked("c")).drawn(0)[0]


@pytest.mark.parametrize(("room", "first"), [(4, 4), (8, 3), (9, 3), (20, 0), (1, 4), (0, 4), (-3, 4)])
def test_the_window_holds_whole_turns_and_at_least_the_last(room: int, first: int) -> None:
    assert talk("a", "b", "c", "d", "e").window(room) == first  # four messages each


def test_an_empty_conversation_has_an_empty_window() -> None:
    assert Conversation().window(10) == 0
    assert Conversation().drawn(0) == []


def test_frozen_messages_are_the_drawn_ones_as_json() -> None:
    conversation = talk("a").adding(asked("b", "half a pair: \ud83d"))
    for frozen, drawn in zip(conversation.frozen(0), conversation.drawn(0), strict=True):
        assert json.loads(orjson.dumps(frozen)) == drawn
    assert len(conversation.frozen(1)) == len(conversation.drawn(1))
