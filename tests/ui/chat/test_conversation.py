"""A visitor's conversation: memory, going back, the window, and the copy that a browser keeps."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import Any

import pytest

from dspy_demo.events import FieldDelta, Message, Status, TurnFailed, TurnFinished, TurnStarted, Usage
from dspy_demo.ui.chat.conversation import (
    DRAWN_MAX_CHARS,
    SAVED_MAX_CHARS,
    SAVED_MAX_TURNS,
    Conversation,
    from_json,
    to_json,
)
from dspy_demo.ui.chat.turn_view import TurnView


def asked(question: str, answer: Any = "4", trace_id: str | None = None) -> TurnView:
    view = TurnView(question, started_s=0.0, turn_id=f"turn-{question}", answer_field="answer")
    for event in (
        TurnStarted("local", "m"),
        FieldDelta("reasoning", "reasoning", "Hm."),
        Status("search(x)", "pending", key="tool-1"),
        Status("search(x): found", "done", key="tool-1"),
        TurnFinished({"reasoning": "Hm.", "answer": answer}, Usage(3, 4), trace_id=trace_id),
    ):
        view = view.apply(event, 1.0)
    return view


def of(*views: TurnView) -> Conversation:
    conversation = Conversation()
    for view in views:
        conversation = conversation.adding(view)
    return conversation


def talk(*questions: str) -> Conversation:
    return of(*(asked(question, f"answer to {question}") for question in questions))


def test_the_history_is_the_latest_questions_and_answers_that_fit() -> None:
    both = (
        Message("user", "a"),
        Message("assistant", "answer to a"),
        Message("user", "b"),
        Message("assistant", "answer to b"),
    )
    assert talk("a", "b").history(1000) == (both, True)
    assert talk("c", "a", "b").history(30) == (both, False)
    assert talk("a").history(3) == ((), False)


def test_a_stopped_turn_counts_where_it_has_an_answer() -> None:
    silent = TurnView("x", started_s=0.0).stopped(1.0)
    partial = TurnView("y", started_s=0.0).apply(FieldDelta("answer", "answer", "So"), 0.5).stopped(1.0)
    failed = TurnView("z", started_s=0.0).apply(TurnFailed("x", "No.", True), 1.0)
    had = (Message("user", "y"), Message("assistant", "So"))
    assert of(silent, partial, failed).history(1000) == (had, True)


def test_going_back_and_finding_a_turn() -> None:
    three = talk("a", "b", "c")
    turn = three.find("turn-b")
    assert turn is not None
    assert three.before(turn) == Conversation(three.turns[:1]) == three.before(turn).latest(5)
    assert three.before(turn).find("turn-b") is None
    assert [three.latest(count).turns for count in (2, 0)] == [three.turns[1:], ()]


def test_links_to_traces_come_and_go_with_mlflows_pages() -> None:
    conversation = of(asked("a", trace_id="tr-0"), asked("b"))
    linked = conversation.changed(
        lambda view: replace(view, trace_url="http://there/tr-0") if view.trace_id else view
    )
    assert 'href="http://there/tr-0"' in str(linked.turns[0].drawn)
    assert linked.turns[1] is conversation.turns[1]
    assert linked.changed(lambda view: replace(view, trace_url="")) == conversation


# The browser's copy


def many(item: str, chars: int) -> str:
    return f"[{','.join([item] * (chars // (len(item) + 1)))}]"


SHORT = to_json(of(TurnView("x", started_s=0.0, turn_id="a").stopped(1.0)))[1:-1]
ANSWERED = to_json(of(asked("q", "@@")))[1:-1]


def answered(value: str) -> str:
    return ANSWERED.replace('"@@"', value)


def test_what_we_write_we_read() -> None:
    conversation = talk("a", "b").adding(asked("c", {"a": [{"b": [1]}]}))
    assert from_json(to_json(conversation)) == conversation
    long = to_json(talk(*(str(number) + "x" * 3000 for number in range(200))))
    assert SAVED_MAX_CHARS - 8000 < len(long) <= SAVED_MAX_CHARS
    assert to_json(from_json(long)) == long


def test_a_turn_kept_while_running_was_stopped() -> None:
    (turn,) = from_json(json.dumps([{**json.loads(ANSWERED), "state": "running"}])).turns
    assert turn.view.state == "stopped"


@pytest.mark.parametrize(
    "data",
    [
        *(None, 3, [], "", "x", "3", "{}", '[null, 3, {"user": 5}]', '[{"nobody": "x"}]'),
        many(SHORT, 6_000_000),
        many(answered("[" * 100 + "]" * 100), 900_000),
        f"[{answered('[' * 100_000 + ']' * 100_000)}]",
        json.dumps([{**json.loads(SHORT), "work": [{"step": "", "field": "", "kind": "thought"}] * 10_000}]),
    ],
    ids=range(13),
)
def test_what_is_not_as_we_write_it_is_left_out_at_once(data: object) -> None:
    begun = time.process_time()
    assert from_json(data) == Conversation()
    assert time.process_time() - begun < 1


def test_what_is_read_is_bounded_in_turns_and_in_what_it_becomes() -> None:
    found = from_json(many(SHORT, 900_000)[:-1] + f",{ANSWERED}]")
    assert len(found.turns) == SAVED_MAX_TURNS
    assert found.turns[-1].view.user == "q"
    wide = from_json(many(answered("[" * 30 + ",".join(["[]"] * 3000) + "]" * 30), 900_000))
    assert 0 < wide.chars <= DRAWN_MAX_CHARS
