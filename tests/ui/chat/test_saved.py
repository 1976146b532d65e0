"""The browser's copy of a chat: it comes back as it was, and nothing else does, nor costs much."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from dspy_demo.events import FieldDelta, Status, TurnFailed, TurnFinished
from dspy_demo.ui.chat.cadence import Cadence
from dspy_demo.ui.chat.conversation import Conversation
from dspy_demo.ui.chat.handlers import ChatHandlers
from dspy_demo.ui.chat.saved import DRAWN_MAX_CHARS, SAVED_MAX_CHARS, SAVED_MAX_TURNS, from_json, to_json
from dspy_demo.ui.chat.tabs import Tabs
from dspy_demo.ui.chat.turn_view import TurnView
from dspy_demo.ui.layout import draw_page
from tests.services import house, settings_for
from tests.ui.chat.test_conversation import asked, talk
from tests.visitors import STRANGER, request_of


def test_json_there_and_back() -> None:
    conversation = talk("a", "b").adding(
        TurnView.start("c", now_s=0.0).apply(TurnFailed("x", "No.", True), 1.0)
    )
    assert from_json(to_json(conversation)) == conversation


def test_nothing_in_what_the_browser_keeps_looks_like_a_file_to_gradio() -> None:
    file = {"path": "https://inner.example/x", "meta": {"_type": "gradio.FileData"}}
    view = asked("a").apply(TurnFinished({"answer": file}), 1.0)
    assert isinstance(to_json(Conversation().adding(view)), str)


def test_json_keeps_the_latest_turns_that_fit() -> None:
    conversation = talk(*"abcdefgh")
    room = len(to_json(conversation)) // 8 * 2.5
    assert [turn["user"] for turn in json.loads(to_json(conversation, max_chars=int(room)))] == ["g", "h"]


@pytest.mark.parametrize(
    "data", [None, 3, [], "", "x", "3", "{}", '[null, 3, {"user": 5}]', '[{"nobody": "x"}]']
)
def test_what_a_browser_kept_may_be_anything(data: object) -> None:
    assert from_json(data) == Conversation()


def test_a_turn_kept_while_running_was_stopped() -> None:
    (data,) = json.loads(to_json(talk("a")))
    (turn,) = from_json(json.dumps([{**data, "state": "running"}])).turns
    assert turn.view.state == "stopped"


# What somebody made who means harm


def one(view: TurnView) -> str:
    return to_json(Conversation().adding(view))[1:-1]


SHORT = one(TurnView.start("x", now_s=0.0, turn_id="a").stopped(1.0))
ANSWERED = one(TurnView.start("q", now_s=0.0).apply(TurnFinished({"answer": "@@"}), 1.0))


def many(item: str, chars: int) -> str:
    return f"[{','.join([item] * (chars // (len(item) + 1)))}]"


def timed(text: str) -> tuple[Conversation, float]:
    begun = time.process_time()
    return from_json(text), time.process_time() - begun


def test_a_text_that_we_would_not_have_written_is_not_read() -> None:
    found, cost_s = timed(many(SHORT, 6_000_000))
    assert found == Conversation()
    assert cost_s < 0.05


def test_of_too_many_turns_the_newest_come_back() -> None:
    last = one(TurnView.start("the last one", now_s=0.0).stopped(1.0))
    found, cost_s = timed(many(SHORT, 900_000)[:-1] + f",{last}]")
    assert len(found.turns) == SAVED_MAX_TURNS
    assert found.turns[-1].view.user == "the last one"
    assert cost_s < 1


def test_what_we_write_we_read() -> None:
    views = [asked(str(number), "x" * 3000) for number in range(400)]
    conversation = Conversation()
    for view in views:
        conversation = conversation.adding(view)
    text = to_json(conversation)
    assert SAVED_MAX_CHARS - 5000 < len(text) <= SAVED_MAX_CHARS
    assert to_json(from_json(text)) == text


@pytest.mark.parametrize("depth", [100, 900, 100_000])
def test_deep_outputs_are_not_drawn(depth: int) -> None:
    deep = ANSWERED.replace('"@@"', "[" * depth + "]" * depth)
    assert from_json(many(deep, 900_000)) == Conversation()
    assert len(from_json(f"[{deep},{SHORT}]").turns) in {0, 1}


@pytest.mark.parametrize("order", [["t0"] * 50_000, ["t1"], ["s5"], ["x"], [""]])
def test_no_part_is_drawn_twice_and_none_that_is_not_there(order: list[str]) -> None:
    view = TurnView.start("q", now_s=0.0).apply(FieldDelta("reasoning", "reasoning", "y" * 5000), 0.5)
    data = json.loads(one(view.stopped(1.0)))
    found, cost_s = timed(json.dumps([{**data, "order": order}]))
    assert found == Conversation()
    assert cost_s < 0.5


def test_a_turn_with_all_kinds_of_parts_comes_back() -> None:
    view = TurnView.start("q", now_s=0.0)
    for event in (
        Status("Trying again"),
        FieldDelta("reasoning", "reasoning", "Hm."),
        Status("search(x)", "pending", key="tool-1"),
        Status("search(x): found", "done", key="tool-1"),
        FieldDelta("answer", "answer", "So."),
        TurnFinished({"reasoning": "Hm.", "answer": {"a": [{"b": [1]}]}}),
    ):
        view = view.apply(event, 1.0)
    conversation = Conversation().adding(view)
    assert from_json(to_json(conversation)) == conversation


def test_what_grows_by_drawing_is_bounded() -> None:
    wide = ANSWERED.replace('"@@"', "[" * 30 + ",".join(["[]"] * 3000) + "]" * 30)
    found, _ = timed(many(wide, 900_000))
    assert 0 < found.chars <= DRAWN_MAX_CHARS


@pytest.fixture
async def chat(data_dir: Path) -> AsyncIterator[ChatHandlers]:
    settings = settings_for(data_dir)
    async with house(settings) as home:
        with gr.Blocks(analytics_enabled=False):
            page = draw_page(home.catalog.detection, home.programs.specs(), home.programs.default)
        yield ChatHandlers(home.service, settings, Tabs(window=40, max_tabs=50), page, Cadence(0.0))


def copy_of(number: int, turns: Any) -> dict[str, Any]:
    return {"chat": str(number).rjust(43, "a"), "turns": turns}


async def test_pages_that_are_loaded_and_never_closed_stay_few(chat: ChatHandlers) -> None:
    text = many(SHORT, 100_000)
    for number in range(120):
        await chat.load(copy_of(number, text), request_of(STRANGER, f"hash-{number}"))
    assert len(chat.tabs) == 50
    newest = chat.tabs.get("hash-119", STRANGER)
    assert newest is not None
    assert len(newest.conversation.turns) > 100


async def test_a_long_chat_comes_back_beside_the_others(
    chat: ChatHandlers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is read in a thread, one at a time, and only where this process does not know the chat."""
    text, reading, threads, most = many(SHORT, 200_000), 0, set[int](), 0

    def read(turns: Any) -> Conversation:
        nonlocal reading, most
        reading += 1
        most = max(most, reading)
        threads.add(threading.get_ident())
        try:
            return from_json(turns)
        finally:
            reading -= 1

    monkeypatch.setattr("dspy_demo.ui.chat.handlers.from_json", read)

    async def load_all() -> None:
        await asyncio.gather(
            *(chat.load(copy_of(number, text), request_of(STRANGER, f"hash-{number}")) for number in range(6))
        )

    await load_all()
    assert most == 1
    assert threads
    assert threading.get_ident() not in threads
    threads.clear()
    await load_all()
    assert not threads
