"""A chat's memory and its browser's copy; whose the open pages are, and how many are kept."""

from __future__ import annotations

import json
from typing import Any, cast

import pytest

from dspy_demo.events import FieldDelta, Message, TurnFailed, TurnFinished, TurnStarted, Usage, Visitor
from dspy_demo.ui.chat import session
from dspy_demo.ui.chat.session import SAVED_MAX_CHARS, FinishedTurn, LiveTurn, Sessions, Turns, history
from dspy_demo.ui.chat.turn_view import TurnView
from tests.visitors import STRANGER

OTHER = Visitor("guest", "another")


def asked(question: str, answer: Any = "4", trace_id: str | None = None) -> TurnView:
    view = TurnView(question, started_s=0.0, turn_id=f"turn-{question}", answer_field="answer")
    for event in (
        TurnStarted("local", "m"),
        FieldDelta("reasoning", "reasoning", "Hm."),
        TurnFinished({"reasoning": "Hm.", "answer": answer}, Usage(3, 4), trace_id=trace_id),
    ):
        view = view.apply(event, 1.0)
    return view


def talk(*turns: str | TurnView) -> Turns:
    views = (asked(turn, f"answer to {turn}") if isinstance(turn, str) else turn for turn in turns)
    return tuple(map(FinishedTurn, views))


def test_the_history_is_the_latest_questions_and_answers_that_fit() -> None:
    both = [Message(who, text) for q in "ab" for who, text in (("user", q), ("assistant", f"answer to {q}"))]  # type: ignore[arg-type]
    assert history(talk("a", "b"), 1000) == tuple(both)
    assert history(talk("c", "a", "b"), 30) == tuple(both)
    began = TurnView("y", started_s=0.0)
    stopped = began.apply(FieldDelta("answer", "answer", "So"), 0.5).stopped(1.0)
    failed = began.apply(TurnFailed("x", "No.", True), 1.0)
    had = (Message("user", "y"), Message("assistant", "So"))
    assert history(talk(began.stopped(1.0), stopped, failed), 1000) == had


def test_a_browser_keeps_what_fits_and_only_what_this_app_wrote_is_read() -> None:
    sessions = Sessions(b"k" * 32)
    chat = talk("a", asked("b", {"a": [{"path": "/etc", "meta": 1}]}))
    kept = json.loads(sessions.saved(sessions.open("s", STRANGER, "", chat)))["turns"]
    assert [turn.view for turn in sessions.read(kept)] == [turn.view for turn in chat]
    for forged in (None, 3, [], {}, "", "[]", kept.replace("answer to", "forged"), "\udc80.x"):
        assert sessions.read(forged) == ()
    assert Sessions(b"l" * 32).read(kept) == ()
    long = sessions.open("s", STRANGER, "", talk(*(str(number) + "x" * 3000 for number in range(200))))
    kept = json.loads(sessions.saved(long))["turns"]
    assert SAVED_MAX_CHARS - 8000 < len(kept) <= SAVED_MAX_CHARS + 100
    assert sessions.read(kept)[-1].view == long.turns[-1].view


def test_a_chat_is_nobodys_without_the_one_who_opened_it_and_its_name_cannot_be_chosen() -> None:
    sessions = Sessions(b"")
    mine = sessions.open("s1", STRANGER)
    assert sessions.get("s1", OTHER) is sessions.of_chat(mine.chat, OTHER) is None
    after = sessions.open("s2", STRANGER, mine.chat, mine.turns)
    assert sessions.of_chat(mine.chat, STRANGER) is after and after.chat == mine.chat
    for guessed in ("", "guess", "a" * 42, "ä" * 43):
        assert sessions.open("s3", STRANGER, guessed).chat not in {"", guessed}
    assert mine.session_id.startswith("a-guest.") and mine.chat not in mine.session_id, "it is no secret"


def test_the_chats_are_bounded_and_what_was_used_longest_ago_leaves_first_but_no_running_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(session, "MAX_SESSIONS", 3)
    sessions = Sessions(b"")
    running = sessions.open("running", STRANGER)
    running.live = cast(LiveTurn, object())
    used = sessions.open("used", STRANGER)
    for number in range(10):
        assert sessions.get("used", STRANGER) is used
        sessions.open(f"s{number}", STRANGER)
    assert sessions.get("s8", STRANGER) is None
    assert sessions.get("running", STRANGER) is running
    monkeypatch.setattr(session, "MAX_CHARS", talk("a", "b")[0].chars * 3)
    sessions = Sessions(b"")
    for number in range(3):
        sessions.open(f"s{number}", STRANGER, "", talk("a", "b"))
    assert [bool(sessions.get(f"s{number}", STRANGER)) for number in range(3)] == [False, False, True]
