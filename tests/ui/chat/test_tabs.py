"""The open pages: whose they are, what a reload finds, and how many are kept."""

from __future__ import annotations

from typing import cast

import pytest

from dspy_demo.events import Visitor
from dspy_demo.ui.chat.conversation import Conversation
from dspy_demo.ui.chat.live import LiveTurn
from dspy_demo.ui.chat.tabs import Tab, Tabs
from dspy_demo.ui.chat.turn_view import TurnView
from tests.visitors import STRANGER

OTHER = Visitor("guest", "another")
ONE = Conversation().adding(TurnView.start("q", now_s=0.0).stopped(1.0))


@pytest.fixture
def tabs() -> Tabs:
    return Tabs(window=40, max_tabs=3, max_restored_chars=10_000)


def test_a_reload_finds_the_chat_and_only_its_own_visitor_does(tabs: Tabs) -> None:
    before = tabs.open("s1", STRANGER, saved=ONE)
    before.closed = True
    assert tabs.before_reload(before.chat, OTHER) is None
    assert tabs.before_reload("", STRANGER) is None
    found = tabs.before_reload(before.chat, STRANGER)
    assert found is before
    after = tabs.reopen("s2", found)
    assert (after.chat, after.conversation, len(tabs)) == (before.chat, ONE, 1)


def test_a_duplicate_of_an_open_tab_goes_its_own_way(tabs: Tabs) -> None:
    first = tabs.open("s1", STRANGER, saved=ONE)
    second = tabs.reopen("s2", first)
    second.start_over()
    assert tabs.get("s1", STRANGER) is first
    assert first.conversation is ONE


def test_a_hash_is_nobodys_without_the_one_who_opened_it(tabs: Tabs) -> None:
    tab = tabs.open("s1", STRANGER)
    assert tabs.get("s1", OTHER) is None
    tabs.open("s1", OTHER)
    assert tabs.get("s1", STRANGER) is tab


@pytest.mark.parametrize("chat", ["", "guess", "a" * 42, "ä" * 43])
def test_a_name_that_is_not_one_of_ours_is_not_taken(tabs: Tabs, chat: str) -> None:
    assert len(tabs.open("s1", STRANGER, chat).chat) == 43
    assert tabs.open("s1", STRANGER, chat).chat != chat


def test_what_was_used_longest_ago_leaves_first_but_no_running_turn(tabs: Tabs) -> None:
    running = tabs.open("running", STRANGER)
    running.begin(cast(LiveTurn, object()), running.conversation)
    used = tabs.open("used", STRANGER)
    for number in range(10):
        assert tabs.get("used", STRANGER) is used
        tabs.open(f"s{number}", STRANGER)
    assert len(tabs) == 3
    assert tabs.get("running", STRANGER) is running


def test_what_browsers_sent_is_bounded_in_total(tabs: Tabs) -> None:
    for number in range(3):
        tabs.open(f"s{number}", STRANGER, saved=ONE, chars=6_000)
    assert len(tabs) == 1


def test_what_others_see_of_a_chat_tells_nothing_of_its_name() -> None:
    tab = Tab(STRANGER, 40, ONE)
    first = tab.session_id
    assert first.startswith("a-guest.")
    assert tab.chat not in first
    tab.start_over()
    assert tab.session_id != first
    tab.restore()
    assert (tab.session_id, tab.conversation) == (first, ONE)
