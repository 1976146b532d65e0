"""Events to JSON and back."""

import json
from typing import get_args

from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from dspy_demo.events import (
    Event,
    LMChoice,
    LocalTarget,
    TurnFinished,
    TurnRequest,
    event_from_wire,
    to_wire,
)

outputs = st.dictionaries(st.text(), st.text() | st.integers() | st.lists(st.text()))
events = st.one_of(
    *(st.from_type(kind) for kind in get_args(Event) if kind is not TurnFinished),
    st.builds(TurnFinished, outputs),
)


@given(events)
def test_the_wire_keeps_every_event(event):
    wire = json.dumps(to_wire(event))  # compared as text, in which NaN is itself
    read = event_from_wire(json.loads(wire))
    assert type(read) is type(event) and json.dumps(to_wire(read)) == wire


def test_a_key_does_not_show_in_a_request():
    choice = LMChoice("openai/x", api_key=SecretStr("sk-typed"))
    assert "sk-typed" not in repr(TurnRequest(LocalTarget("p", choice), {"question": "?"}))
