"""The owner's handlers, as if a guest had got past the auth and the choice of page: nothing happens.

What a guest can send to the real app is in test_attacks.py.
"""

import dataclasses
import inspect

import gradio as gr
import pytest

from dspy_demo.events import FieldDelta, Visitor
from dspy_demo.guests.allowance import Allowance
from dspy_demo.ui.chat.turn_view import TurnView
from dspy_demo.ui.page import build_page
from tests.services import house, settings_for
from tests.ui.drawn import services_of
from tests.visitors import STRANGER, request_of

#: What a click on each of the owner's buttons says.
ACTIONS = ("serve", "promote", "edit", "stop", "open", "restart", "share", "roll-back", "load", "pull")
CLICKS = [{"do": do, "uri": "models:/dspy-demo/1"} for do in ACTIONS]


@pytest.fixture
async def handlers(data_dir):
    """Those of the owner's page and those of the guests', by name."""
    settings = settings_for(data_dir)
    async with house(settings) as home:
        guests = Allowance(settings, home.programs.specs(), home.catalog.detection)
        services = services_of(home)
        pages = [build_page(services), build_page(services, guests=guests)]
        yield [{fn.fn.__qualname__: fn for fn in page.fns.values() if fn.fn} for page in pages]


def arguments_for(fn, click, session_hash="tab"):
    """What Gradio would call a handler with, for a stranger who clicked there."""
    first = {"index": 0, "value": "x", "previous_value": "y"}
    events = {kind: kind(None, first) for kind in (gr.EditData, gr.RetryData, gr.UndoData)}
    events[gr.LikeData] = gr.LikeData(None, {"index": 1, "value": "x", "liked": True})
    events[gr.SelectData] = gr.SelectData(None, {"index": 0, "value": {"text": "x"}})
    events |= {gr.EventData: gr.EventData(None, click), gr.Request: request_of(STRANGER, session_hash)}
    given = {widget: [] if isinstance(widget, gr.Chatbot) else "x" for widget in fn.inputs}
    values = {"given": given, "chat": []}
    hints = inspect.get_annotations(fn.fn, eval_str=True)
    return [events.get(hint) or values.get(name) for name, hint in hints.items() if name != "return"]


async def call(fn, arguments):
    outcome = fn.fn(*arguments)
    if inspect.isasyncgen(outcome):
        _ = [update async for update in outcome]
    elif inspect.isawaitable(outcome):
        await outcome


async def test_the_owners_handlers_refuse_a_guest_who_reaches_them(handlers):
    """Whatever the arguments: the role is looked at first. Their answers name no service."""
    owners, guests = handlers
    only_owners = {name: fn for name, fn in owners.items() if name not in guests}
    assert len(only_owners) >= 8, only_owners.keys()
    for name, fn in only_owners.items():
        for click in CLICKS:
            arguments = arguments_for(fn, click)
            assert any(isinstance(argument, gr.Request) for argument in arguments), name
            await call(fn, arguments)


async def test_the_handlers_of_both_pages_leave_the_chat_of_another_guest_alone(handlers):
    """A stranger who knows the session's hash, which is no secret, and calls each of them under it."""
    shared = {name: fn for name, fn in handlers[1].items() if name.startswith("Chat.")}
    del shared["Chat.answer"]  # which has no session
    assert len(shared) >= 12, shared.keys()
    tabs = shared["Chat.load"].fn.__self__.sessions
    victim = Visitor("guest", "a-victim")
    tab = tabs.open("theirs", victim)
    turn = TurnView("What is 2 + 2?", started_s=0.0).apply(FieldDelta("answer", "answer", "4"), 0.5)
    tab.end(dataclasses.replace(turn.stopped(1.0), trace_id="tr-1"))
    chat, session = tab.turns, tab.session_id
    for name, fn in shared.items():
        await call(fn, arguments_for(fn, CLICKS[0], "theirs"))
        assert tabs.get("theirs", victim) is tab, name
        assert (tab.turns is chat, tab.session_id, tab.live) == (True, session, None), name
