"""What a record holds at each end of a turn. No MLflow here."""

from __future__ import annotations

import asyncio
import subprocess
import sys

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
from tests.processes import REPO

KEY = "sk-planted-0123456789"
LOCAL = TurnRequest(
    LocalTarget("react", LMChoice("openai/fake", "http://u:p@host/v1", SecretStr(KEY))), {"question": "?"}
)


def test_a_new_record_has_its_trace_id_at_once_and_no_key() -> None:
    one, server = TurnRecord.of(LOCAL), TurnRecord.of(LOCAL, serves="models:/demo/3")
    assert one.trace_id != server.trace_id
    assert one.trace_id.startswith("tr-") and len(one.trace_id) == 35 and int(one.trace_id[3:], 16) < 2**128
    assert (one.backend, one.program, one.model, one.version) == ("local", "react", "openai/fake", "")
    assert (server.backend, server.version, server.model) == ("served", "models:/demo/3", "openai/fake")
    typed = TurnRecord.of(TurnRequest(ServedTarget("http://me:hunter2@host:5001/x"), {"question": "?"}))
    assert typed.model == "host:5001"
    assert KEY not in repr(one) and "hunter2" not in repr(typed)


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
    wild = TurnRecord.of(LOCAL)
    for number in range(CALLS_MAX + 10):
        wild.tool_started(str(number), "t", {})
    assert len(wild.calls) == CALLS_MAX, "it does not take the memory"


def test_the_chat_does_not_import_mlflow() -> None:
    code = "import sys, dspy_demo.tracing.tracer, dspy_demo.chat; assert 'mlflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=REPO, check=True)
