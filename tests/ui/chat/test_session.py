"""A running turn, a chat's memory and its browser's copy; whose the open pages are; ratings."""

import json
import time
from unittest.mock import Mock

import gradio as gr
import pytest

from dspy_demo.events import FieldDelta, LMChoice, Message, TurnFailed, TurnFinished, Usage, Visitor
from dspy_demo.guests.limits import Bounds, GuestLimits
from dspy_demo.ui.chat import session
from dspy_demo.ui.chat.section import Chat
from dspy_demo.ui.chat.session import REDRAW_S, SAVED_MAX_CHARS, FinishedTurn, LiveTurn, Sessions, history
from dspy_demo.ui.chat.turn_view import TurnView
from tests.scripted_backend import ScriptedBackend, scripted_answer
from tests.services import house, settings_for
from tests.visitors import STRANGER, request_of

OTHER = Visitor("guest", "another")
REQUEST = request_of(STRANGER)


def asked(question, answer="4", trace_id=None):
    view = TurnView(question, turn_id=f"turn-{question}", answer_field="answer")
    end = TurnFinished({"reasoning": "Hm.", "answer": answer}, Usage(3, 4), trace_id=trace_id)
    return view.apply(FieldDelta("reasoning", "reasoning", "Hm."), 1.0).apply(end, 1.0)


def talk(*turns):
    views = (asked(turn, f"answer to {turn}") if isinstance(turn, str) else turn for turn in turns)
    return tuple(map(FinishedTurn, views))


@pytest.mark.parametrize(("delivered", "most"), [(True, None), (False, 1)], ids=["taken", "not taken"])
async def test_redraws_are_few_and_wait_for_the_last_one_but_the_end_for_nobody(data_dir, delivered, most):
    backend = ScriptedBackend(scripted_answer("x" * 300, tokens=["x"] * 300), pause_s=0.001)
    ended, began = [], time.monotonic()
    async with house(settings_for(data_dir), local=backend) as home:
        program = home.programs.default
        turn = LiveTurn(home.service, home.request("q"), program, on_end=ended.append)
        shots = [shot async for shot in turn.snapshots(lambda: delivered)]
    assert len(shots) <= (most or (time.monotonic() - began) / REDRAW_S + 2)
    assert shots[-1:] == ended
    assert (shots[-1].state, shots[-1].answer_text) == ("done", "x" * 300)


def test_the_history_is_the_latest_questions_and_answers_that_fit():
    both = tuple(Message(*pair) for q in "ab" for pair in (("user", q), ("assistant", f"answer to {q}")))
    assert history(talk("a", "b"), 1000) == history(talk("c", "a", "b"), 30) == both
    began = TurnView("y")
    stopped = began.apply(FieldDelta("answer", "answer", "So"), 0.5).stopped(1.0)
    failed = began.apply(TurnFailed("x", "No.", True), 1.0)
    had = history(talk(began.stopped(1.0), stopped, failed), 1000)
    assert had == (Message("user", "y"), Message("assistant", "So"))


def test_a_browser_keeps_what_fits_and_only_what_this_app_wrote_is_read():
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


def test_a_chat_is_nobodys_without_the_one_who_opened_it_and_its_name_cannot_be_chosen():
    sessions = Sessions(b"")
    mine = sessions.open("s1", STRANGER)
    assert sessions.get("s1", OTHER) is sessions.of_chat(mine.chat, OTHER) is None
    after = sessions.open("s2", STRANGER, mine.chat, mine.turns)
    assert sessions.of_chat(mine.chat, STRANGER) is after and after.chat == mine.chat
    for guessed in ("", "guess", "a" * 42, "ä" * 43):
        assert sessions.open("s3", STRANGER, guessed).chat not in {"", guessed}
    assert mine.session_id.startswith("a-guest.") and mine.chat not in mine.session_id, "it is no secret"


def test_what_was_used_longest_ago_leaves_first_but_no_running_turn(monkeypatch):
    monkeypatch.setattr(session, "MAX_SESSIONS", 3)
    sessions = Sessions(b"")
    running, used = sessions.open("running", STRANGER), sessions.open("used", STRANGER)
    running.live = Mock()
    for number in range(10):
        assert sessions.get("used", STRANGER) is used
        sessions.open(f"s{number}", STRANGER)
    assert sessions.get("s8", STRANGER) is None
    assert sessions.get("running", STRANGER) is running
    monkeypatch.setattr(session, "MAX_CHARS", talk("a", "b")[0].chars * 3)
    sessions = Sessions(b"")
    for name in "abc":
        sessions.open(name, STRANGER, "", talk("a", "b"))
    assert [bool(sessions.get(name, STRANGER)) for name in "abc"] == [False, False, True]


@pytest.fixture
async def rated(data_dir):
    """A chat, and its tab with three turns, of which the last has no trace."""
    settings = settings_for(data_dir)
    limits = GuestLimits(settings, bounds=Bounds(turns_per_minute=4))
    async with house(settings, LMChoice("scripted/model"), limits=limits) as home:
        with gr.Blocks(analytics_enabled=False):
            chat = Chat(home.service, Mock(), mlflow_url=str)
            chat.draw([], home.request("").target)
        home.service.tracer = Mock()
        tab = chat.sessions.open("tab", STRANGER)
        for number, trace_id in enumerate(("tr-0", "tr-1", None)):
            tab.end(asked(str(number), trace_id=trace_id))
        yield chat, tab


def thumb(tab, number, liked):
    """A click below the answer of a turn, and the chat: Gradio tells the first message of the answer."""
    before = sum(len(turn.drawn) for turn in tab.turns[:number])
    return gr.LikeData(None, {"index": before + 1, "value": [], "liked": liked}), tab.drawn(lambda _: "")


async def test_a_thumb_is_for_its_turn_and_a_comment_stays_with_it(rated):
    chat, tab = rated
    await chat.rate(*thumb(tab, 1, True), REQUEST)
    assert [turn.view.rated for turn in tab.turns] == [None, True, None]
    await chat.comment("  Short ", REQUEST)
    for liked in (False, ""):
        await chat.rate(*thumb(tab, 1, liked), REQUEST)
    expected = [("tr-1", True, None), ("tr-1", True, "Short"), ("tr-1", False, "Short"), ("tr-1", None, None)]
    assert [call.args for call in chat.service.tracer.feedback.call_args_list] == expected
    refused = await chat.rate(*thumb(tab, 1, True), REQUEST)
    assert "a lot" in refused[chat.widgets.notice]


async def test_what_has_no_trace_or_no_thumb_is_not_rated(rated):
    chat, tab = rated
    shown = [{"role": "user"}, {"role": "assistant", "metadata": {"id": "turn-0"}}]
    for index in (-1, 99, None, "0", [], [[]], [0, 0]):
        click = gr.LikeData(None, {"index": index, "value": [], "liked": True})
        assert "no longer part of the chat" in (await chat.rate(click, shown, REQUEST))[chat.widgets.notice]
    assert "has no trace" in (await chat.rate(*thumb(tab, 2, True), REQUEST))[chat.widgets.notice]
    await chat.comment("words without a thumb", REQUEST)
    await chat.rate(*thumb(tab, 1, True), request_of(OTHER))
    assert not chat.service.tracer.feedback.called
