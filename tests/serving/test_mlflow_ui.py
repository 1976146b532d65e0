"""**Open MLflow** with a real ``mlflow server``, which is then used as the remote store of a team."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import httpx
import pytest

from dspy_demo.events import LMChoice, LocalTarget, TurnFinished, TurnRequest
from dspy_demo.programs.registry import ProgramRegistry
from dspy_demo.programs.shipped import SHIPPED
from dspy_demo.serving.mlflow_ui import MLflowPages
from dspy_demo.settings import Settings
from dspy_demo.tracing.tracer import Tracer
from dspy_demo.versions import LogRequest, VersionStore
from tests.services import until

PLANTED = ("OPENAI_API_KEY", "AZURE_API_KEY", "DSPY_DEMO_API_KEY", "DSPY_DEMO_OWNER_TOKEN", "DB_PASSWORD")


@pytest.mark.integration
async def test_it_starts_serves_versions_and_traces_and_stops(data_dir, tmp_path, monkeypatch):
    """One server for all of it: starting one takes seconds."""
    for name in PLANTED:
        monkeypatch.setenv(name, "planted-secret")
    monkeypatch.setenv("SSL_CERT_FILE", "/etc/ssl/of-the-company.pem")
    store = VersionStore(Settings(data_dir=data_dir))
    pages = MLflowPages(store.tracking)
    assert pages.url == "" and pages.state().phase == "new"
    try:
        url = await pages.open()
        assert pages.url == url == await pages.open(), "a second click opens the same"
        state = pages.state()
        environment = Path(f"/proc/{state.pid}/environ").read_bytes()
        assert b"planted-secret" not in environment
        assert b"SSL_CERT_FILE=/etc/ssl/of-the-company.pem" in environment
        async with httpx.AsyncClient(trust_env=False) as client:
            assert "<html" in (await client.get(url)).text
        settings = Settings(data_dir=tmp_path / "elsewhere", tracking_uri=url)
        await asyncio.to_thread(_use_as_a_remote_store, settings)
        assert [version.version for version in store.versions()] == [1]
        os.killpg(state.pid or 0, signal.SIGKILL)
        await until(lambda: pages.state().phase == "failed", 2)
        assert pages.url == "" and pages.state().reason
    finally:
        await pages.stop()


def _use_as_a_remote_store(settings):
    """Log, list, load, promote, with artifacts by HTTP; a trace and a rating."""
    remote = VersionStore(settings)
    logged = remote.log(LogRequest("demo", "react", LMChoice("demo/engine")), ProgramRegistry(SHIPPED))
    assert remote.versions() == [logged] and logged.servable
    assert remote.load(logged.uri).name == "react"
    assert remote.promote(logged.uri).champion
    assert MLflowPages(remote.tracking).url == settings.tracking_uri, "a remote server is only linked to"

    tracer = Tracer(settings, remote.tracking)
    record = tracer.begin(
        TurnRequest(LocalTarget("react", LMChoice("m")), {"question": "🙂"}, session_id="ann.1")
    )
    assert record is not None
    record.hear(TurnFinished({"answer": "4"}))
    tracer.finish(record)
    tracer.feedback(record.trace_id, False, "meh", "ann")
    assert tracer.close(30) and tracer.notice is None
    trace = remote.tracking.client.get_trace(record.trace_id)
    assert (trace.info.state, trace.info.trace_metadata["mlflow.trace.session"]) == ("OK", "ann.1")
    (rating,) = trace.info.assessments
    assert (rating.feedback.value, rating.rationale) == (False, "meh")
