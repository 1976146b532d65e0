"""What a record holds at each end of a turn. No MLflow here."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

from pydantic import SecretStr

from dspy_demo.events import (
    FieldDelta,
    LMChoice,
    LocalTarget,
    ServedTarget,
    TurnFailed,
    TurnFinished,
    TurnRequest,
    TurnStarted,
    Usage,
)
from dspy_demo.tracing.record import CALLS_MAX, TurnRecord

KEY = "sk-planted-0123456789"
LOCAL = TurnRequest(
    LocalTarget("react", LMChoice("openai/fake", "http://u:p@host/v1", SecretStr(KEY))), {"question": "?"}
)


def test_a_new_record_has_its_trace_id_at_once() -> None:
    one, two = TurnRecord.of(LOCAL), TurnRecord.of(LOCAL)
    assert one.trace_id != two.trace_id
    assert one.trace_id.startswith("tr-")
    assert int(one.trace_id[3:], 16) < 2**128
    assert len(one.trace_id) == 35
    assert (one.backend, one.program, one.model, one.version) == ("local", "react", "openai/fake", "")
    server = TurnRecord.of(LOCAL, serves="models:/demo/3")
    assert (server.backend, server.version, server.model) == ("served", "models:/demo/3", "openai/fake")
    assert KEY not in repr(one)


def test_a_typed_address_is_recorded_without_its_password() -> None:
    record = TurnRecord.of(TurnRequest(ServedTarget("http://me:hunter2@host:5001/x"), {"question": "?"}))
    assert record.model == "host:5001"
    assert "hunter2" not in repr(record)


def test_the_three_ends() -> None:
    finished, failed, stopped = (TurnRecord.of(LOCAL) for _ in range(3))
    for record in (finished, failed, stopped):
        record.hear(TurnStarted("local", "m"))
        record.hear(FieldDelta("answer", "answer", "fo", "predict"))
        record.hear(FieldDelta("answer", "answer", "ur", "predict"))
    finished.hear(TurnFinished({"answer": "4"}, Usage(3, 1)))
    failed.hear(TurnFailed("upstream_cut", "Cut.", True))
    for record in (finished, failed, stopped):
        record.close()
    assert [record.outcome for record in (finished, failed, stopped)] == ["finished", "failed", "stopped"]
    assert finished.outputs == {"answer": "4"}
    assert failed.outputs == stopped.outputs == {"predict.answer": "four"}
    assert finished.usage.total_tokens == 4


def test_calls_are_named_timed_and_ended_with_the_turn() -> None:
    record = TurnRecord.of(LOCAL)
    record.lm_started("a", "react", "m", [{"role": "user", "content": "?"}], {})
    record.call_ended("a", ["yes"], None)
    record.tool_started("b", "calculator", {"expression": "1/0"})
    record.call_ended("b", None, ZeroDivisionError("with a secret"))
    record.lm_started("c", "react#2", "m", [], {})
    record.call_ended("c", None, asyncio.CancelledError())
    record.lm_started("d", "react#3", "m", [], {})
    record.close()
    record.call_ended("d", ["too late"], None)
    record.tool_started("e", "too_late", {})
    assert [call.name for call in record.calls] == ["react", "calculator", "react#2", "react#3"]
    assert [call.error for call in record.calls] == ["", "ZeroDivisionError", "", ""]
    assert [call.stopped for call in record.calls] == [False, False, True, True]
    assert all(record.started_ns <= c.started_ns <= c.ended_ns <= record.ended_ns for c in record.calls)
    assert "secret" not in repr(record)


def test_a_loop_that_went_wild_does_not_take_the_memory() -> None:
    record = TurnRecord.of(LOCAL)
    for number in range(CALLS_MAX + 10):
        record.tool_started(str(number), "t", {})
        record.call_ended(str(number), "", None)
    assert len(record.calls) == CALLS_MAX


def test_a_served_turn_is_traced_by_its_server() -> None:
    request = TurnRequest(ServedTarget("http://h:1", "models:/demo/1"), {"question": "?"})
    theirs, plain = TurnRecord.of(request), TurnRecord.of(request)
    theirs.hear(TurnFinished({"answer": "4"}, trace_id="tr-" + "0" * 32))
    plain.hear(TurnFinished({"answer": "4"}, trace_id=plain.trace_id))
    assert theirs.traced_elsewhere
    assert not plain.traced_elsewhere
    assert not TurnRecord.of(request).traced_elsewhere


def test_the_user_is_the_visitor_of_the_session() -> None:
    request = TurnRequest(LOCAL.target, {}, session_id="abc.7")
    assert TurnRecord.of(request).user == "abc"
    assert TurnRecord.of(TurnRequest(LOCAL.target, {}, session_id="abc")).user == "abc"


def test_the_chat_does_not_import_mlflow() -> None:
    code = "import sys, dspy_demo.tracing.tracer, dspy_demo.chat; print('mlflow' in sys.modules)"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
