"""Records become traces in a real store, and nobody waits for it."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dspy_demo.errors import TrackingError, TrackingUnavailable
from dspy_demo.events import FieldDelta, ServedTarget, TurnFailed, TurnFinished, TurnRequest, Usage
from dspy_demo.settings import Settings
from dspy_demo.tracing import tracer as tracing
from dspy_demo.tracing.record import TurnRecord
from dspy_demo.tracing.spans import HIDDEN
from dspy_demo.tracing.store import TraceStore
from dspy_demo.tracing.tracer import MlflowTracer
from dspy_demo.versions.tracking import Tracking
from tests.processes import wait_until
from tests.tracing.conftest import folder_in_the_way, request_of

DONE = TurnFinished({"reasoning": "because", "answer": "4"}, Usage(12, 5, 0.002), first_delta_s=0.1)


def run_turn(
    tracer: MlflowTracer, end: TurnFinished | TurnFailed | None = DONE, **request: Any
) -> TurnRecord:
    """A turn with one model call and one tool, to its end; None stops it."""
    record = tracer.begin(request_of(**request))
    assert record is not None
    record.lm_started(
        "1", "predict", "openai/fake", [{"role": "user", "content": "2+2 \ud83d?"}], {"top_p": 1}
    )
    call = record.call_ended("1", [{"text": "four"}], None)
    assert call is not None
    call.usage = Usage(12, 5, 0.002)
    record.tool_started("2", "calculator", {"expression": "2+2"})
    if end is not None:
        record.call_ended("2", "4", None)
    record.hear(FieldDelta("answer", "answer", "fou", "predict"))
    if end is not None:
        record.hear(end)
    tracer.finish(record)
    return record


def test_a_finished_turn_can_be_read_back(
    tracer: MlflowTracer, stored: Callable[[str], Any], session: str
) -> None:
    record = run_turn(tracer, session=session)
    trace = stored(record.trace_id)
    info, (root, lm, tool) = trace.info, trace.data.spans
    assert info.state == "OK"
    assert info.tags["turn.outcome"] == "finished"
    assert info.tags["program"] == "chain_of_thought"
    assert info.tags["model"] == "openai/fake"
    assert info.tags["backend"] == "local"
    assert info.tags["turn_id"] == record.turn_id
    assert info.trace_metadata["mlflow.trace.session"] == session
    assert info.trace_metadata["mlflow.trace.user"] == session.partition(".")[0]
    assert info.token_usage == {"input_tokens": 12, "output_tokens": 5, "total_tokens": 17}
    assert info.cost["total_cost"] == 0.002
    assert "What is 2 + 2?" in info.request_preview
    assert "because" in info.response_preview
    assert info.request_time == record.started_ns // 1_000_000
    assert (root.span_type, lm.span_type, tool.span_type) == ("CHAIN", "CHAT_MODEL", "TOOL")
    assert root.parent_id is None
    assert lm.parent_id == tool.parent_id == root.span_id
    assert root.inputs == {"question": "What is 2 + 2?"}
    assert root.outputs == {"reasoning": "because", "answer": "4"}
    assert lm.inputs["messages"][0]["content"].startswith("2+2")
    assert lm.outputs["choices"][0]["message"] == {"role": "assistant", "content": "four"}
    assert lm.model_name == "openai/fake"
    assert (tool.inputs, tool.outputs) == ({"expression": "2+2"}, "4")
    assert (root.start_time_ns, root.end_time_ns) == (record.started_ns, record.ended_ns)


def test_a_failed_turn_is_an_error(tracer: MlflowTracer, stored: Callable[[str], Any]) -> None:
    record = run_turn(tracer, TurnFailed("upstream_cut", "The reply stopped.", True))
    trace = stored(record.trace_id)
    assert trace.info.state == "ERROR"
    assert (trace.info.tags["turn.outcome"], trace.info.tags["error"]) == ("failed", "upstream_cut")
    assert trace.data.spans[0].status.description == "upstream_cut: The reply stopped."
    assert trace.data.spans[0].outputs == {"predict.answer": "fou"}


def test_a_stopped_turn_says_so_and_keeps_what_had_streamed(
    tracer: MlflowTracer, stored: Callable[[str], Any]
) -> None:
    record = run_turn(tracer, None)
    trace = stored(record.trace_id)
    assert trace.info.tags["turn.outcome"] == "stopped"
    assert trace.info.state != "ERROR"
    root, _, tool = trace.data.spans
    assert root.status.status_code == tool.status.status_code == "UNSET"
    assert root.outputs == {"predict.answer": "fou"}
    assert trace.info.token_usage["total_tokens"] == 17


def test_turns_are_found_by_their_session(tracer: MlflowTracer, tracking: Tracking, session: str) -> None:
    ids = {run_turn(tracer, session=session).trace_id for _ in range(3)}
    run_turn(tracer, session="another")
    assert tracer.flush(15)
    found = tracking.client.search_traces(
        locations=[tracking.experiment_id], filter_string=f"metadata.`mlflow.trace.session` = '{session}'"
    )
    assert {trace.info.trace_id for trace in found} == ids
    assert tracer.link(record_id := ids.pop(), "http://ui") == (
        f"http://ui/#/experiments/{tracking.experiment_id}/traces?startTimeLabel=ALL&selectedEvaluationId={record_id}"
    )


def test_a_served_turn_without_a_trace_of_its_server_has_a_root_only(
    tracer: MlflowTracer, stored: Callable[[str], Any], tracking: Tracking
) -> None:
    request = TurnRequest(ServedTarget("http://127.0.0.1:5001", "models:/demo/1"), {"question": "?"})
    plain, traced = tracer.begin(request), tracer.begin(request)
    assert plain
    assert traced
    plain.hear(TurnFinished({"answer": "4"}, Usage(2, 1), trace_id=plain.trace_id))
    traced.hear(TurnFinished({"answer": "4"}, trace_id="tr-" + "1" * 32))
    tracer.finish(plain)
    tracer.finish(traced)
    trace = stored(plain.trace_id)
    assert len(trace.data.spans) == 1
    assert (trace.info.tags["backend"], trace.info.tags["version"]) == ("served", "models:/demo/1")
    assert trace.info.token_usage["total_tokens"] == 3
    with pytest.raises(Exception, match="not found"):
        tracking.client.get_trace(traced.trace_id)


async def test_300_turns_at_once_are_all_written(
    tracer: MlflowTracer, tracking: Tracking, session: str
) -> None:
    started = time.monotonic()
    records = await asyncio.gather(
        *(asyncio.to_thread(run_turn, tracer, session=session) for _ in range(300))
    )
    assert await asyncio.to_thread(tracer.flush, 40)
    rate = 300 / (time.monotonic() - started)
    print(f"\n{rate:.0f} traces/s written (3 spans each)")
    found = tracking.client.search_traces(
        locations=[tracking.experiment_id],
        filter_string=f"metadata.`mlflow.trace.session` = '{session}'",
        max_results=400,
        include_spans=False,
    )
    assert {trace.info.trace_id for trace in found} == {record.trace_id for record in records}
    assert tracer.dropped == 0


def test_a_second_try_does_not_write_twice(
    tracer: MlflowTracer, stored: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    write, tries = TraceStore.write, []

    def cut(self: TraceStore, records: Any) -> None:
        write(self, records)
        tries.append(records)
        if len(tries) == 1:
            raise TrackingUnavailable()

    monkeypatch.setattr(TraceStore, "write", cut)
    record = run_turn(tracer)
    trace = stored(record.trace_id)
    assert len(tries) == 2
    assert len(trace.data.spans) == 3
    assert trace.info.token_usage["total_tokens"] == 17


@pytest.mark.parametrize("error", [TrackingUnavailable(), TrackingError()])
def test_one_bad_record_does_not_hold_up_the_others(
    tracer: MlflowTracer, stored: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    write = TraceStore.write
    monkeypatch.setattr(tracing, "RETRY_FIRST_S", 0.01)

    def refusing(self: TraceStore, records: Any) -> None:
        if any("poison" in str(record.inputs) for record in records):
            raise error
        write(self, records)

    monkeypatch.setattr(TraceStore, "write", refusing)
    run_turn(tracer, question="poison")
    records = []
    while not tracer.dropped:  # with others to compare to, the bad one is found
        records.append(run_turn(tracer))
        time.sleep(0.05)
    records.append(run_turn(tracer))
    for record in records:
        assert stored(record.trace_id)
    assert tracer.dropped == 1
    assert tracer.notice is None


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "RETRY_FIRST_S", 0.05)
    monkeypatch.setattr(tracing, "RETRY_MAX_S", 0.1)
    monkeypatch.setattr(tracing, "LINGER_S", 0.01)


@pytest.mark.usefixtures("quick_retries")
def test_a_folder_that_cannot_be_made_is_one_notice_until_it_can(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = Settings(data_dir=folder_in_the_way(tmp_path / "file"))
    tracking = Tracking(settings)
    tracer = MlflowTracer(settings, tracking)
    record = run_turn(tracer)
    wait_until(lambda: tracer._failures > 3, 30, "it fails")
    assert tracer.notice == tracing.DATABASE_DOWN
    assert not tracer.flush(0.2)
    assert sum(entry.name == tracing.__name__ for entry in caplog.records) == 1
    (tmp_path / "file").unlink()
    assert tracer.flush(30)
    assert tracer.notice is None
    assert tracking.client.get_trace(record.trace_id).info.tags["turn.outcome"] == "finished"
    assert tracer.close(1)


@pytest.mark.usefixtures("quick_retries")
def test_a_locked_database_delays_the_trace_only(
    tracer: MlflowTracer, tracking: Tracking, trace_settings: Settings
) -> None:
    other = sqlite3.connect(trace_settings.data_dir / "mlflow.db", timeout=20, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    started = time.monotonic()
    record = run_turn(tracer)
    assert time.monotonic() - started < 0.05
    assert not tracer.flush(0.5)
    other.execute("ROLLBACK")
    other.close()
    assert tracer.flush(20)
    assert tracking.client.get_trace(record.trace_id)


@pytest.mark.usefixtures("quick_retries")
def test_a_database_that_cannot_be_written_is_logged_once_and_without_anybodys_words(
    tracer: MlflowTracer,
    tracking: Tracking,
    trace_settings: Settings,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    run_turn(tracer)
    assert tracer.flush(15)
    database, away = trace_settings.data_dir / "mlflow.db", trace_settings.data_dir / "away.db"
    database.rename(away)  # SQLite then refuses to write, for root too
    record = run_turn(tracer, question="private words")
    wait_until(lambda: tracer._failures > 4, 20, "it fails")
    assert tracer.notice == tracing.DATABASE_DOWN
    away.rename(database)
    assert tracer.flush(20)
    assert tracer.notice is None
    assert tracking.client.get_trace(record.trace_id)
    warnings = [entry for entry in caplog.records if entry.levelname != "DEBUG"]
    assert [entry.name for entry in warnings] == [tracing.__name__] * 2  # it began, it ended
    assert "private words" not in capfd.readouterr().err + "".join(entry.getMessage() for entry in warnings)


@pytest.mark.usefixtures("quick_retries")
def test_a_server_that_is_down_is_a_notice_and_memory_is_bounded(
    tmp_path: Path,
    free_port: Callable[[], int],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(tracing, "WAITING_MAX", 10)
    settings = Settings(data_dir=tmp_path, tracking_uri=f"http://127.0.0.1:{free_port()}")
    tracer = MlflowTracer(settings, Tracking(settings))
    for _ in range(60):
        run_turn(tracer)
    wait_until(lambda: tracer.notice, 30, "it is told")
    assert tracer.notice == tracing.DOWN
    assert tracer.dropped >= 60 - 10 - tracing.BATCH_MAX
    assert sum(entry.name == tracing.__name__ for entry in caplog.records) == 1
    started = time.monotonic()
    assert not tracer.close(0.2)
    assert time.monotonic() - started < 1


def test_a_slow_store_is_told(tracer: MlflowTracer, monkeypatch: pytest.MonkeyPatch) -> None:
    release, write = threading.Event(), TraceStore.write
    monkeypatch.setattr(tracing, "SLOW_S", 0.2)
    monkeypatch.setattr(TraceStore, "write", lambda self, records: release.wait(10) and write(self, records))
    run_turn(tracer)
    wait_until(lambda: tracer.notice == tracing.SLOW, 5, "it is told")
    release.set()
    assert tracer.flush(10)
    assert tracer.notice is None


def test_no_secret_is_written(
    tracking: Tracking, trace_settings: Settings, stored: Callable[[str], Any]
) -> None:
    typed, provider = "sk-typed-0123456789abcdef", 'sk-pro"vider-0123456789abcdef'
    settings = Settings(
        **(trace_settings.model_dump() | {"api_key": provider, "served_url": "http://me:hunter2hunter2@h/v1"})
    )
    tracer = MlflowTracer(settings, tracking)
    record = tracer.begin(request_of(f"my key is {typed}", key=typed))
    assert record is not None
    record.lm_started("1", "predict", "m", [{"content": f"echo {provider}", "n": "hunter2hunter2"}], {})
    record.call_ended("1", None, RuntimeError(f"Incorrect API key provided: {typed}"))
    record.hear(TurnFailed("upstream", f"Bad key {typed}", False))
    tracer.finish(record)
    assert tracer.close(15)
    assert stored(record.trace_id).data.spans[0].inputs["question"] == f"my key is {HIDDEN}"
    data = b"".join(path.read_bytes() for path in trace_settings.data_dir.glob("mlflow.db*"))
    for secret in (typed, "vider-0123456789abcdef", "hunter2hunter2"):
        assert secret.encode() not in data


def test_long_texts_are_cut(tracer: MlflowTracer, stored: Callable[[str], Any]) -> None:
    record = tracer.begin(request_of())
    assert record is not None
    record.tool_started("1", "read_file", {"path": "x"})
    record.call_ended("1", "y" * 1_000_000, None)
    tracer.finish(record)
    assert stored(record.trace_id).data.spans[1].outputs.endswith("[950,000 characters more]")
