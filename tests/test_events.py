"""Events to JSON and back."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from dspy_demo.errors import UpstreamRateLimited
from dspy_demo.events import (
    Event,
    FieldDelta,
    LMChoice,
    LocalTarget,
    Status,
    TurnFailed,
    TurnFinished,
    TurnRequest,
    TurnStarted,
    Usage,
    event_from_wire,
    failed_from,
    to_wire,
)

texts = st.text()
maybe_float = st.none() | st.floats(0, 1e6)
usages = st.builds(Usage, st.integers(0), st.integers(0), maybe_float, st.booleans())
events = st.one_of(
    st.builds(TurnStarted, texts, texts, st.booleans()),
    st.builds(Status, texts, st.sampled_from(["info", "pending", "done", "failed"]), texts),
    st.builds(FieldDelta, texts, st.sampled_from(["reasoning", "answer", "tool"]), texts, texts),
    st.builds(
        TurnFinished,
        st.dictionaries(texts, texts | st.integers() | st.lists(texts)),
        usages,
        maybe_float,
        st.floats(0, 1e6),
        st.none() | texts,
    ),
    st.builds(TurnFailed, texts, texts, st.booleans(), st.integers(400, 599), texts, maybe_float),
)


@given(events)
def test_the_wire_keeps_every_event(event: Event) -> None:
    assert event_from_wire(json.loads(json.dumps(to_wire(event)))) == event


def test_an_unknown_type_is_skipped_and_a_broken_one_is_not() -> None:
    assert event_from_wire({"type": "from_the_future"}) is None
    with pytest.raises((KeyError, TypeError)):
        event_from_wire({"type": "delta"})


def test_an_error_becomes_its_event() -> None:
    failed = failed_from(UpstreamRateLimited("Slow down.", retry_after_s=3))
    assert (failed.code, failed.public_message, failed.retryable) == (
        "upstream_rate_limited",
        "Slow down.",
        True,
    )
    assert (failed.http_status, failed.retry_after_s) == (429, 3)


def test_a_key_does_not_show_in_a_request() -> None:
    choice = LMChoice("openai/x", api_key=SecretStr("sk-typed"))
    assert "sk-typed" not in repr(TurnRequest(LocalTarget("p", choice), {"question": "?"}))
