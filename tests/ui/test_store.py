"""Visitors and their tabs."""

from __future__ import annotations

from typing import cast

from dspy_demo.events import Visitor as Asker
from dspy_demo.ui.conversation import Conversation
from dspy_demo.ui.live import LiveTurn
from dspy_demo.ui.store import ConversationStore, Visitor
from dspy_demo.ui.turn_view import TurnView
from tests.visitors import STRANGER


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def store(clock: Clock | None = None, **bounds: float) -> ConversationStore:
    return ConversationStore(window=40, clock=clock or Clock(), **bounds)  # type: ignore[arg-type]


ONE = Conversation().adding(TurnView.start("q", now_s=0.0).stopped(1.0))


def test_a_new_visitor_gets_an_id_that_nobody_can_guess() -> None:
    visitors = store()
    first, second = visitors.open("s1", "", Conversation()), visitors.open("s2", "", Conversation())
    assert first.visitor.id != second.visitor.id
    assert len(first.visitor.id) == 43


def test_a_reload_finds_the_conversation() -> None:
    visitors = store()
    tab = visitors.open("s1", "", Conversation())
    tab.visitor.conversation = ONE
    visitors.close("s1")
    assert visitors.open("s2", tab.visitor.id, Conversation()).visitor.conversation is ONE


def test_after_a_restart_the_browsers_copy_is_taken() -> None:
    known = store().open("s1", "", Conversation()).visitor.id
    assert store().open("s1", known, ONE).visitor.conversation is ONE


def test_an_id_that_we_did_not_make_is_not_taken() -> None:
    tab = store().open("s1", "guess", ONE)
    assert tab.visitor.id != "guess"
    assert tab.visitor.conversation == Conversation()


def test_two_tabs_of_one_browser_share_the_conversation() -> None:
    visitors = store()
    first = visitors.open("s1", "", Conversation())
    assert visitors.open("s2", first.visitor.id, Conversation()).visitor is first.visitor


def test_an_unknown_session_has_no_tab() -> None:
    assert store().tab("never seen") is None
    assert store().close("never seen") is None


def test_the_oldest_visitor_leaves_when_there_are_too_many() -> None:
    visitors = store(max_visitors=2)
    first = visitors.open("s1", "", Conversation()).visitor
    visitors.close("s1")
    for session in ("s2", "s3"):
        visitors.open(session, "", Conversation())
    assert len(visitors) == 2
    assert visitors.open("s4", first.id, Conversation()).visitor is not first


def test_open_tabs_hold_nobody_for_ever() -> None:
    visitors = store(max_visitors=2, max_tabs=3)
    for number in range(20):
        visitors.open(f"s{number}", "", Conversation())
    assert (len(visitors), visitors.open_tabs) == (2, 2)
    one = visitors.open("s20", "", Conversation()).visitor
    for number in range(21, 30):
        visitors.open(f"s{number}", one.id, Conversation())
    assert visitors.open_tabs == len(one.tabs) == 3


def test_who_uses_the_page_stays() -> None:
    visitors = store(max_visitors=2)
    first = visitors.open("s1", "", Conversation()).visitor
    for number in range(2, 20):
        visitors.open(f"s{number}", "", Conversation())
        tab = visitors.tab("s1")
        assert tab is not None
        assert tab.visitor is first


def test_a_running_turn_keeps_its_visitor_and_its_tab() -> None:
    visitors = store(max_visitors=1, max_tabs=1)
    tab = visitors.open("s1", "", Conversation())
    tab.begin(cast(LiveTurn, object()))
    for number in range(2, 6):
        visitors.open(f"s{number}", "", Conversation())
    assert visitors.tab("s1") is tab
    assert (len(visitors), visitors.open_tabs) == (2, 2)


def test_an_open_page_outlives_the_time_without_a_visit() -> None:
    clock = Clock()
    visitors = store(clock, ttl_s=60)
    tab = visitors.open("s1", "", Conversation())
    clock.now = 1000
    visitors.open("s2", "", Conversation())
    assert visitors.tab("s1") is tab


def test_what_browsers_sent_is_bounded_in_total() -> None:
    visitors = store(max_restored_chars=10_000)
    for number in range(50):
        visitors.open(f"s{number}", f"{number:043}", ONE, saved_chars=2000)
    assert len(visitors) < 5
    for number in range(50, 60):
        visitors.open(f"s{number}", "", Conversation())
    assert len(visitors) > 10


def test_a_hash_is_nobodys_without_the_one_who_opened_it() -> None:
    visitors = store()
    tab = visitors.open("s1", "", Conversation(), asker=STRANGER)
    other = Asker("guest", "another")
    assert visitors.tab("s1", other) is None
    assert visitors.close("s1", other) is None
    visitors.open("s1", "", Conversation(), asker=other)
    assert visitors.tab("s1", STRANGER) is tab


def test_after_its_time_a_conversation_is_forgotten() -> None:
    clock = Clock()
    visitors = store(clock, ttl_s=60)
    first = visitors.open("s1", "", Conversation()).visitor
    visitors.close("s1")
    clock.now = 61
    visitors.open("s2", "", Conversation())
    assert len(visitors) == 1
    assert visitors.open("s3", first.id, Conversation()).visitor is not first


def test_what_others_see_of_a_visitor_tells_nothing_of_the_id() -> None:
    visitor = Visitor("a" * 43)
    first = visitor.session_id
    assert "aaa" not in first
    assert first.startswith(f"{visitor.name}.")
    visitor.start_over()
    assert visitor.session_id != first
    assert visitor.session_id.startswith(f"{visitor.name}.")
