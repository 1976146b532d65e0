"""Turns become traces in a real store, and nobody waits for it: made by hand, and those of the chat."""

import asyncio
import time
from dataclasses import replace

import pytest
from pydantic import SecretStr

from dspy_demo.errors import UpstreamCut
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
from dspy_demo.mlflow_bridge import Traces
from dspy_demo.settings import Settings
from dspy_demo.tracing import tracer as tracing
from dspy_demo.tracing.record import Call
from dspy_demo.tracing.spans import HIDDEN
from dspy_demo.tracing.tracer import FAILING, Tracer
from dspy_demo.versions.tracking import Tracking
from tests.fake_openai import FAULTS, free_port, tool_reply
from tests.processes import wait_until
from tests.scripted_backend import ScriptedBackend
from tests.services import house, settings_for

THEIRS = "tr-" + "b" * 32  # a trace that a model server writes
KEY = "sk-planted-in-the-turn-0123456789"
DONE = TurnFinished({"reasoning": "because", "answer": "4"}, Usage(12, 5, 0.002), first_delta_s=0.1)


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    return Settings(data_dir=tmp_path_factory.mktemp("traces"))


@pytest.fixture(scope="module")
def tracking(settings):
    """One database for all: making it takes seconds."""
    return Tracking(settings)


@pytest.fixture
def tracer(settings, tracking, monkeypatch):
    monkeypatch.setattr(tracing, "RETRY_WAITS_S", (0.05, 0.1))
    tracer = Tracer(settings, tracking)
    yield tracer
    assert tracer.close(15)


@pytest.fixture
def stored(tracking, tracer):
    """The trace with an id, as MLflow gives it back."""

    def read(trace_id):
        assert tracer.flush(15)
        return tracking.client.get_trace(trace_id)

    return read


def begun(tracer, question="What is 2 + 2?"):
    target = LocalTarget("chain_of_thought", LMChoice("openai/fake", api_key=SecretStr(KEY)))
    return tracer.begin(TurnRequest(target, {"question": question}))


def run_turn(tracer, end=DONE, question="What is 2 + 2?"):
    """A turn with one model call and one tool, to its end; None stops it."""
    record = begun(tracer, question)
    record.call_started("1", Call("lm", "predict", [{"role": "user", "content": "2+2 \ud83d?"}]))
    record.call_ended("1", [{"text": "four"}], None, usage=Usage(12, 5, 0.002))
    record.call_started("2", Call("tool", "calculator", {"expression": "2+2"}))
    for text in ("fo", "u"):
        record.hear(FieldDelta("answer", "answer", text, "predict"))
    if end is not None:
        record.call_ended("2", "4", None)
        record.hear(end)
    tracer.finish(record)
    record.call_ended("2", "too late", None)
    record.call_started("3", Call("tool", "too_late", {}))
    return record


def test_a_turn_that_did_not_finish_keeps_what_had_streamed(tracer, stored):
    stopped = run_turn(tracer, None)
    failed = run_turn(tracer, TurnFailed("upstream_cut", "Cut.", True))
    for record, outcome, status in ((stopped, "stopped", "UNSET"), (failed, "failed", "ERROR")):
        trace = stored(record.trace_id)
        root, lm, tool = trace.data.spans
        assert trace.info.tags["turn.outcome"] == outcome
        assert (root.outputs, root.status.status_code) == ({"predict.answer": "fou"}, status)
        assert lm.inputs["messages"][0]["content"].startswith("2+2")
        assert tool.end_time_ns <= root.end_time_ns
        assert trace.info.cost["total_cost"] == 0.002


def test_a_second_try_does_not_write_a_trace_twice(tracer, stored, monkeypatch):
    written, write = [], Traces.write

    def write_and_fail(self, experiment_id, spans):
        write(self, experiment_id, spans)
        written.append(spans)
        raise OSError("The reply was lost.")

    monkeypatch.setattr(Traces, "write", write_and_fail)
    trace = stored(run_turn(tracer).trace_id)
    assert len(written) == len(trace.data.spans) == 3


def test_a_server_that_is_down_is_a_notice_and_keeps_nobody_waiting(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(tracing, "RETRY_WAITS_S", (0.05, 0.1))
    monkeypatch.setattr(tracing, "WAITING_MAX", 10)
    tracer = Tracer(Settings(data_dir=tmp_path, tracking_uri=f"http://127.0.0.1:{free_port()}"))
    for _ in range(60):
        run_turn(tracer)
    wait_until(lambda: tracer.notice, 30, "there is a notice")
    started = time.monotonic()
    tracer.close(0.2)
    assert time.monotonic() - started < 1


def test_a_dropped_trace_is_a_notice_without_anybodys_words(tracer, stored, settings, capfd, caplog):
    assert stored(run_turn(tracer).trace_id)
    database, away = settings.data_dir / "mlflow.db", settings.data_dir / "away.db"
    database.rename(away)  # SQLite then refuses to write, for root too
    run_turn(tracer, question="private words")
    assert tracer.flush(20)
    away.rename(database)
    assert (tracer.notice, tracer.state) == (FAILING, "failing")
    (entry,) = [entry for entry in caplog.records if entry.levelname == "WARNING"]
    assert entry.name == tracing.__name__
    assert "private words" not in caplog.text + capfd.readouterr().err
    assert stored(run_turn(tracer).trace_id)
    assert (tracer.notice, tracer.state) == (None, "ok")


def ratings(trace):
    given = trace.info.assessments
    return sorted((one.feedback.value, one.rationale or "", one.source.source_id) for one in given)


def test_a_thumb_can_be_changed_commented_and_taken_back(tracer, stored):
    trace_id = run_turn(tracer).trace_id
    tracer.feedback(trace_id, True, user="ann")
    tracer.feedback(trace_id, False, "Wrong sum. 🙁", user="ann")
    tracer.feedback(trace_id, False, user="bob")
    assert ratings(stored(trace_id)) == [(False, "", "bob"), (False, "Wrong sum. 🙁", "ann")]
    tracer.feedback(trace_id, None, user="ann")
    tracer.feedback(trace_id, None, user="ann")
    assert ratings(stored(trace_id)) == [(False, "", "bob")]
    assert tracer.notice is None


def test_a_rating_waits_for_a_server_to_write_its_trace(tracer, stored, tracking, settings, monkeypatch):
    monkeypatch.setattr(tracing, "RETRY_WAITS_S", (1.0, 1.0))
    server = Tracer(settings, tracking, serves="models:/demo/1")
    record = begun(server)
    tracer.feedback(record.trace_id, True, user="ann")
    wait_until(lambda: tracer.notice, 10, "the first try failed")
    server.finish(record)
    assert server.close(10)
    trace = stored(record.trace_id)
    assert ratings(trace) == [(True, "", "ann")]
    assert (trace.info.tags["backend"], trace.info.tags["version"]) == ("served", "models:/demo/1")


def test_no_secret_is_written_and_no_long_text(tracking, settings, stored):
    provider = 'sk-pro"vider-0123456789abcdef'
    planted = {"api_key": provider, "served_url": "http://me:hunter2hunter2@h/v1"}
    tracer = Tracer(Settings(**(settings.model_dump() | planted)), tracking)
    record = begun(tracer, f"my key is {KEY}")
    record.call_started("1", Call("lm", "predict", [{"content": f"echo {provider}", "n": "hunter2hunter2"}]))
    record.call_ended("1", None, RuntimeError(f"Incorrect API key provided: {KEY}"))
    record.call_started("2", Call("tool", "read_file", {"path": "x"}))
    record.call_ended("2", "y" * 1_000_000, None)
    record.hear(TurnFailed("upstream", f"Bad key {KEY}", False))
    tracer.finish(record)
    assert tracer.close(15)
    spans = stored(record.trace_id).data.spans
    assert spans[0].inputs["question"] == f"my key is {HIDDEN}"
    assert spans[2].outputs.endswith("[950,000 characters more]")
    data = b"".join(path.read_bytes() for path in settings.data_dir.glob("mlflow.db*"))
    for secret in (KEY, "vider-0123456789abcdef", "hunter2hunter2"):
        assert secret.encode() not in data
    assert ServedTarget("http://me:hunter2@host:5001/x").model == "host:5001", "as a tag names it"


# Turns of the chat, over a real HTTP model.


def served(request):
    """What a served version answers to each of the last test's questions."""
    told, lost = UpstreamCut(), UpstreamCut()
    told.from_server = True
    ends = {"told": told, "lost": lost, "answered": TurnFinished({"answer": "4"}, trace_id=THEIRS)}
    return TurnStarted("served", "models:/d/1", trace_id=THEIRS), ends[request.inputs["question"]]


@pytest.fixture
async def chat(fake_openai, data_dir, tracer):
    choice = LMChoice("openai/fake", fake_openai.url, SecretStr(KEY), temperature=0.5, cache=False)
    settings = settings_for(data_dir, lm_retries=0)
    async with house(settings, choice, served=ScriptedBackend(served)) as chat:
        chat.service.tracer = tracer
        yield chat


async def failed_trace_id(chat, request):
    turn = chat.service.turn(request)
    async with turn:
        assert [event.kind async for event in turn][-1] == "failed"
    return turn.trace_id


async def test_react_has_its_model_and_tool_calls_below_the_root(chat, fake_openai, tracer, tracking, stored):
    fake_openai.reply(tool_reply("calculator", {"expression": "6 * 7"}))
    request = replace(chat.request("What is 6 * 7?", program="react"), session_id="ann.chat")
    finished = (await chat.run(request)).finished
    trace = await asyncio.to_thread(stored, finished.trace_id)
    info, (root, *calls) = trace.info, trace.data.spans
    assert (info.state, info.tags["turn.outcome"]) == ("OK", "finished")
    told = {"turn_id": request.turn_id, "backend": "local", "program": "react", "model": "openai/fake"}
    assert told.items() <= info.tags.items() and "version" not in info.tags
    assert [info.trace_metadata[f"mlflow.trace.{of}"] for of in ("session", "user")] == ["ann.chat", "ann"]
    link = tracer.link(finished.trace_id, "http://ui/")
    assert link.startswith(f"http://ui/#/experiments/{tracking.experiment_id}/traces?")
    assert link.endswith(finished.trace_id)
    assert [span.name for span in calls] == ["react", "calculator", "react#2", "extract"]
    assert [span.span_type for span in calls[:2]] == ["CHAT_MODEL", "TOOL"]
    assert all(span.parent_id == root.span_id for span in calls)
    assert (calls[1].inputs, calls[1].outputs) == ({"expression": "6 * 7"}, "42")
    assert calls[0].inputs["messages"][0]["role"] == "system"
    assert "6 * 7" in calls[0].outputs["choices"][0]["message"]["content"]
    assert calls[0].attributes["temperature"] == 0.5
    assert root.inputs == {"question": "What is 6 * 7?"}
    assert root.outputs["answer"] == finished.outputs["answer"]
    used = [span.attributes["mlflow.chat.tokenUsage"]["total_tokens"] for span in (calls[0], *calls[2:])]
    assert sum(used) == info.token_usage["total_tokens"] == finished.usage.total_tokens > 0
    assert not [text for text in (KEY, fake_openai.url) if text in str(trace.to_dict())]


async def test_a_failed_call_is_a_failed_turn_and_a_refused_request_is_none(chat, fake_openai, stored):
    fake_openai.reply(FAULTS["401"], times=2)
    trace = await asyncio.to_thread(stored, await failed_trace_id(chat, chat.request("?")))
    assert await failed_trace_id(chat, chat.request("")) is None
    assert (trace.info.state, trace.info.tags["error"]) == ("ERROR", "upstream_auth")
    lm = trace.data.spans[1]
    assert (lm.status.status_code, lm.status.description) == ("ERROR", "LMAuthError")


async def test_two_visitors_calls_do_not_mix(chat, stored):
    turns = await asyncio.gather(*(chat.ask(f"I am visitor-{number:02}") for number in range(8)))
    for number, turn in enumerate(turns):
        trace = await asyncio.to_thread(stored, turn.finished.trace_id)
        text = str([span.to_dict() for span in trace.data.spans])
        assert text.count("visitor-") == text.count(f"visitor-{number:02}") > 0
        assert len(trace.data.spans) == 2


async def test_a_served_turn_that_its_server_traces_is_not_written_again(chat, tracer, tracking):
    """Failed by the server's own word, or finished; but a server that was lost has written nothing."""

    def asked(question):
        target = ServedTarget("http://h:1", "models:/d/1")
        return TurnRequest(target, {"question": question}, session_id="written-once")

    assert await failed_trace_id(chat, asked("told")) == THEIRS
    assert (await chat.run(asked("answered"))).finished.trace_id == THEIRS
    ours = await failed_trace_id(chat, asked("lost"))
    assert ours != THEIRS
    assert await asyncio.to_thread(tracer.flush, 15)
    session = "metadata.`mlflow.trace.session` = 'written-once'"
    (trace,) = tracking.client.search_traces(locations=[tracking.experiment_id], filter_string=session)
    assert (trace.info.trace_id, trace.info.state) == (ours, "ERROR")
    assert (trace.info.tags["backend"], trace.info.tags["version"]) == ("served", "models:/d/1")
    assert len(trace.data.spans) == 1
