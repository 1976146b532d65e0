"""The open pages: whose they are, what a reload finds, and how many are kept."""

from __future__ import annotations

from typing import cast

import pytest

from dspy_demo.events import Visitor
from dspy_demo.ui.chat.live import LiveTurn
from dspy_demo.ui.chat.session import Session, Sessions
from tests.ui.chat.test_conversation import talk
from tests.visitors import STRANGER

OTHER = Visitor("guest", "another")


def test_a_hash_and_a_chat_are_nobodys_without_the_one_who_opened_them() -> None:
    sessions = Sessions()
    mine = sessions.open("s1", STRANGER)
    assert sessions.get("s1", OTHER) is sessions.of_chat(mine.chat, OTHER) is None
    sessions.open("s1", OTHER)
    assert sessions.get("s1", STRANGER) is sessions.of_chat(mine.chat, STRANGER) is mine
    after = sessions.open("s2", STRANGER, mine.chat)
    assert sessions.of_chat(mine.chat, STRANGER) is after


@pytest.mark.parametrize("chat", ["", "guess", "a" * 42, "ä" * 43])
def test_a_name_that_is_not_one_of_ours_is_not_taken(chat: str) -> None:
    opened = Sessions().open("s1", STRANGER, chat)
    assert len(opened.chat) == 43
    assert opened.chat != chat


def test_what_was_used_longest_ago_leaves_first_but_no_running_turn() -> None:
    sessions = Sessions(max_sessions=3)
    running = sessions.open("running", STRANGER)
    running.begin(cast(LiveTurn, object()), running.conversation)
    used = sessions.open("used", STRANGER)
    for number in range(10):
        assert sessions.get("used", STRANGER) is used
        sessions.open(f"s{number}", STRANGER)
        sessions.make_room()
    assert len(sessions) == 3
    assert sessions.get("running", STRANGER) is running


def test_all_chats_together_are_bounded() -> None:
    chat = talk("a", "b")
    sessions = Sessions(max_chars=int(chat.chars * 1.5))
    for number in range(3):
        sessions.open(f"s{number}", STRANGER).conversation = chat
        sessions.make_room()
    assert len(sessions) == 1


def test_what_others_see_of_a_chat_tells_nothing_of_its_name() -> None:
    session = Session(STRANGER, conversation=talk("a"))
    before = session.session_id, session.conversation
    assert session.session_id.startswith("a-guest.")
    assert session.chat not in session.session_id
    session.start_over()
    assert session.session_id != before[0]
    session.restore()
    assert (session.session_id, session.conversation) == before
