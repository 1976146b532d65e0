"""Records become traces in a real store, and nobody waits for it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracing.constant import SpanAttributeKey
from pydantic import SecretStr

from dspy_demo.events import (
    FieldDelta,
    LMChoice,
    LocalTarget,
    ServedTarget,
    TurnFailed,
    TurnFinished,
    TurnRequest,
    Usage,
)
from dspy_demo.mlflow_bridge import FEEDBACK_NAME, Traces
from dspy_demo.settings import Settings
from dspy_demo.tracing import tracer as tracing
from dspy_demo.tracing.record import Call, TurnRecord
from dspy_demo.tracing.spans import HIDDEN, spans_of
from dspy_demo.tracing.tracer import FAILING, Tracer
from dspy_demo.versions.tracking import Tracking
from tests.processes import wait_until
from tests.tracing.conftest import request_of

DONE = TurnFinished({"reasoning": "because", "answer": "4"}, Usage(12, 5, 0.002), first_delta_s=0.1)


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "RETRY_WAITS_S", (0.05, 0.1))


def run_turn(tracer: Tracer, end: TurnFinished | TurnFailed | None = DONE, **request: Any) -> TurnRecord:
    """A turn with one model call and one tool, to its end; None stops it."""
    record = tracer.begin(request_of(**request))
    assert record is not None
    messages = [{"role": "user", "content": "2+2 \ud83d?"}]
    record.call_started("1", Call("lm", "predict", messages, "openai/fake", {"top_p": 1}))
    record.call_ended("1", [{"text": "four"}], None, usage=Usage(12, 5, 0.002))
    record.call_started("2", Call("tool", "calculator", {"expression": "2+2"}))
    record.hear(FieldDelta("answer", "answer", "fo", "predict"))
    record.hear(FieldDelta("answer", "answer", "u", "predict"))
    if end is not None:
        record.call_ended("2", "4", None)
        record.hear(end)
    tracer.finish(record)
    record.call_ended("2", "too late", None)
    record.call_started("3", Call("tool", "too_late", {}))
    return record


def test_a_record_is_told_apart_by_its_target_and_its_spans_have_no_key() -> None:
    key, address = "sk-planted-0123456789", "http://u:p@host/v1"
    choice = LMChoice("openai/fake", address, SecretStr(key))
    local = TurnRequest(LocalTarget("react", choice), {"question": "?"})
    typed = TurnRequest(ServedTarget("http://me:hunter2@host:5001/x"), {"question": "?"})
    for record, expected in (
        (TurnRecord(local), ["local", "react", "openai/fake", None]),
        (TurnRecord(local, "models:/demo/3"), ["served", "react", "openai/fake", "models:/demo/3"]),
        (TurnRecord(typed), ["served", None, "host:5001", None]),
    ):
        record.close()
        (root,) = spans_of(record, ())
        assert not [word for word in (key, "hunter2", "u:p") if word in str(root.to_dict())]
        names = ("backend", "program", "model", "version")
        tags = [root.attributes.get(SpanAttributeKey.TRACE_TAG_PREFIX + name) for name in names]
        assert tags == expected


def test_a_finished_turn_can_be_read_back(
    tracer: Tracer, tracking: Tracking, stored: Callable[[str], Any], session: str
) -> None:
    record = run_turn(tracer, session=session)
    trace = stored(record.trace_id)
    info, (root, lm, _) = trace.info, trace.data.spans
    assert (info.state, info.tags["turn.outcome"]) == ("OK", "finished")
    assert info.tags["turn_id"] == record.request.turn_id
    assert info.trace_metadata["mlflow.trace.session"] == session
    assert info.trace_metadata["mlflow.trace.user"] == session.partition(".")[0]
    assert info.token_usage == {"input_tokens": 12, "output_tokens": 5, "total_tokens": 17}
    assert info.cost["total_cost"] == 0.002
    assert (root.inputs, root.outputs) == ({"question": "What is 2 + 2?"}, dict(DONE.outputs))
    assert lm.inputs["messages"][0]["content"].startswith("2+2")
    link = tracer.link(record.trace_id, "http://ui/")
    assert link is not None and link.startswith(f"http://ui/#/experiments/{tracking.experiment_id}/traces?")
    assert link.endswith(record.trace_id)


def test_a_turn_that_did_not_finish_keeps_what_had_streamed(
    tracer: Tracer, stored: Callable[[str], Any]
) -> None:
    stopped = run_turn(tracer, None)
    failed = run_turn(tracer, TurnFailed("upstream_cut", "Cut.", True))
    for record, outcome, status in ((stopped, "stopped", "UNSET"), (failed, "failed", "ERROR")):
        trace = stored(record.trace_id)
        root, _, tool = trace.data.spans
        assert trace.info.tags["turn.outcome"] == outcome
        assert root.outputs == {"predict.answer": "fou"}
        assert root.status.status_code == status
        assert tool.end_time_ns <= root.end_time_ns


def test_a_second_try_does_not_write_a_trace_twice_and_a_dropped_one_is_a_notice(
    tracer: Tracer,
    stored: Callable[[str], Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    written, write = [], Traces.write

    def write_and_fail(self: Traces, experiment_id: str, spans: list[Any]) -> None:
        write(self, experiment_id, spans)
        written.append(spans)
        raise OSError("The reply was lost.")

    with monkeypatch.context() as broken:
        broken.setattr(Traces, "write", write_and_fail)
        record = run_turn(tracer, question="private words")
        assert tracer.flush(15)
    assert len(written) == 3 and len(stored(record.trace_id).data.spans) == 3
    assert (tracer.notice, tracer.state) == (FAILING, "failing")
    (entry,) = [entry for entry in caplog.records if entry.levelname == "WARNING"]
    assert entry.name == tracing.__name__ and "private words" not in entry.getMessage()
    assert stored(run_turn(tracer).trace_id)
    assert (tracer.notice, tracer.state) == (None, "ok")


def test_a_server_that_is_down_is_a_notice_and_keeps_nobody_waiting(
    tmp_path: Path, free_port: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(tracing, "WAITING_MAX", 10)
    settings = Settings(data_dir=tmp_path, tracking_uri=f"http://127.0.0.1:{free_port()}")
    tracer = Tracer(settings)
    for _ in range(60):
        run_turn(tracer)
    wait_until(lambda: tracer.notice, 30, "there is a notice")
    started = time.monotonic()
    tracer.close(0.2)
    assert time.monotonic() - started < 1


def test_nobodys_words_are_printed_where_the_database_is_gone(
    tracer: Tracer, trace_settings: Settings, capfd: pytest.CaptureFixture[str]
) -> None:
    run_turn(tracer)
    assert tracer.flush(15)
    database, away = trace_settings.data_dir / "mlflow.db", trace_settings.data_dir / "away.db"
    database.rename(away)  # SQLite then refuses to write, for root too
    run_turn(tracer, question="private words")
    assert tracer.flush(20)
    away.rename(database)
    assert tracer.notice
    assert "private words" not in capfd.readouterr().err


def ratings(trace: Any) -> list[tuple[bool, str, str]]:
    given = [one for one in trace.info.assessments if one.name == FEEDBACK_NAME]
    return sorted((one.feedback.value, one.rationale or "", one.source.source_id) for one in given)


def test_a_thumb_can_be_changed_commented_and_taken_back(
    tracer: Tracer, stored: Callable[[str], Any]
) -> None:
    trace_id = run_turn(tracer).trace_id
    tracer.feedback(trace_id, True, user="ann")
    tracer.feedback(trace_id, False, "Wrong sum. 🙁", user="ann")
    tracer.feedback(trace_id, False, user="bob")
    assert ratings(stored(trace_id)) == [(False, "", "bob"), (False, "Wrong sum. 🙁", "ann")]
    tracer.feedback(trace_id, None, user="ann")
    tracer.feedback(trace_id, None, user="ann")
    assert ratings(stored(trace_id)) == [(False, "", "bob")]
    assert tracer.notice is None


def test_a_rating_waits_for_a_trace_that_another_process_writes(
    tracer: Tracer,
    stored: Callable[[str], Any],
    tracking: Tracking,
    trace_settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tracing, "RETRY_WAITS_S", (1.0, 1.0))
    server = Tracer(trace_settings, tracking, serves="models:/demo/1")
    record = server.begin(request_of())
    assert record is not None
    tracer.feedback(record.trace_id, True, user="ann")
    wait_until(lambda: tracer.notice, 10, "the first try failed")
    server.finish(record)
    assert server.close(10)
    assert ratings(stored(record.trace_id)) == [(True, "", "ann")]


def test_no_secret_is_written_and_no_long_text(
    tracking: Tracking, trace_settings: Settings, stored: Callable[[str], Any]
) -> None:
    typed, provider = "sk-typed-0123456789abcdef", 'sk-pro"vider-0123456789abcdef'
    settings = Settings(
        **(trace_settings.model_dump() | {"api_key": provider, "served_url": "http://me:hunter2hunter2@h/v1"})
    )
    tracer = Tracer(settings, tracking)
    record = tracer.begin(request_of(f"my key is {typed}", key=typed))
    assert record is not None
    record.call_started("1", Call("lm", "predict", [{"content": f"echo {provider}", "n": "hunter2hunter2"}]))
    record.call_ended("1", None, RuntimeError(f"Incorrect API key provided: {typed}"))
    record.call_started("2", Call("tool", "read_file", {"path": "x"}))
    record.call_ended("2", "y" * 1_000_000, None)
    record.hear(TurnFailed("upstream", f"Bad key {typed}", False))
    tracer.finish(record)
    assert tracer.close(15)
    spans = stored(record.trace_id).data.spans
    assert spans[0].inputs["question"] == f"my key is {HIDDEN}"
    assert spans[2].outputs.endswith("[950,000 characters more]")
    data = b"".join(path.read_bytes() for path in trace_settings.data_dir.glob("mlflow.db*"))
    for secret in (typed, "vider-0123456789abcdef", "hunter2hunter2"):
        assert secret.encode() not in data
