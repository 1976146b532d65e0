"""A thumb is one assessment, however often somebody changes his mind."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from dspy_demo.tracing import tracer as tracing
from dspy_demo.tracing.store import FEEDBACK_NAME
from dspy_demo.tracing.tracer import MlflowTracer
from tests.processes import wait_until
from tests.tracing.conftest import request_of
from tests.tracing.test_tracer import run_turn


def ratings(trace: Any) -> list[tuple[bool, str, str]]:
    return [
        (assessment.feedback.value, assessment.rationale or "", assessment.source.source_id)
        for assessment in trace.info.assessments
        if assessment.name == FEEDBACK_NAME
    ]


def test_a_thumb_can_be_changed_commented_and_taken_back(
    tracer: MlflowTracer, stored: Callable[[str], Any]
) -> None:
    trace_id = run_turn(tracer).trace_id
    tracer.feedback(trace_id, True, user="ann")
    assert ratings(stored(trace_id)) == [(True, "", "ann")]
    tracer.feedback(trace_id, False, "Wrong sum. 🙁", user="ann")
    assert ratings(stored(trace_id)) == [(False, "Wrong sum. 🙁", "ann")]
    tracer.feedback(trace_id, True, user="ann")
    assert ratings(stored(trace_id)) == [(True, "", "ann")]
    tracer.feedback(trace_id, False, user="bob")
    assert sorted(ratings(stored(trace_id))) == [(False, "", "bob"), (True, "", "ann")]
    tracer.feedback(trace_id, None, user="ann")
    tracer.feedback(trace_id, None, user="ann")
    assert ratings(stored(trace_id)) == [(False, "", "bob")]
    assert tracer.notice is None


def test_a_storm_of_clicks_leaves_the_last_one(tracer: MlflowTracer, stored: Callable[[str], Any]) -> None:
    trace_id = run_turn(tracer).trace_id
    started = time.monotonic()
    for number in range(10):
        tracer.feedback(trace_id, number % 2 == 0, f"{number}", user="ann")
    assert time.monotonic() - started < 0.05
    assert ratings(stored(trace_id)) == [(False, "9", "ann")]


def test_a_rating_waits_for_a_trace_that_another_process_writes(
    tracer: MlflowTracer, stored: Callable[[str], Any], tracking: Any, trace_settings: Any
) -> None:
    server = MlflowTracer(trace_settings, tracking, serves="models:/demo/1")
    record = server.begin(request_of())
    assert record is not None
    tracer.feedback(record.trace_id, True, user="ann")
    time.sleep(0.6)
    server.finish(record)
    assert server.close(10)
    assert ratings(stored(record.trace_id)) == [(True, "", "ann")]


def test_a_rating_without_a_trace_is_told(tracer: MlflowTracer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "TRACE_EXPECTED_S", 0.3)
    tracer.feedback("tr-" + "f" * 32, True)
    wait_until(lambda: tracer.notice == tracing.RATING_LOST, 10, "it is told")
    run_turn(tracer)
    assert tracer.flush(10)
    assert tracer.notice is None
