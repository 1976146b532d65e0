"""**Open MLflow** with a real ``mlflow server``."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import httpx
import pytest

from dspy_demo.errors import TrackingUnavailable
from dspy_demo.events import LMChoice
from dspy_demo.programs.registry import ProgramRegistry
from dspy_demo.programs.shipped import SHIPPED
from dspy_demo.serving.mlflow_ui import MLflowPages
from dspy_demo.settings import Settings
from dspy_demo.versions import LogRequest, VersionStore
from tests.services import until


@pytest.mark.integration
async def test_it_starts_shows_the_version_and_stops(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One server for all of it: starting one takes seconds."""
    for name in (
        "OPENAI_API_KEY",
        "AZURE_API_KEY",
        "DSPY_DEMO_API_KEY",
        "DSPY_DEMO_OWNER_TOKEN",
        "DB_PASSWORD",
    ):
        monkeypatch.setenv(name, "planted-secret")
    monkeypatch.setenv("SSL_CERT_FILE", "/etc/ssl/of-the-company.pem")
    programs, store = ProgramRegistry(SHIPPED), VersionStore(Settings(data_dir=data_dir))
    version = store.log(LogRequest("demo", "predict", LMChoice("demo/engine")), programs)
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
            assert (await client.get(url + "/health")).status_code == 200
            assert "<html" in (await client.get(url)).text
            query = {"name": "demo", "version": "1"}
            reply = await client.get(url + "/api/2.0/mlflow/model-versions/get", params=query)
            assert reply.json()["model_version"]["name"] == version.name
        assert store.link(version, url) == f"{url}/#/models/demo/versions/1"

        # The same store through that server, as a team's remote one: log, list, load, artifacts by HTTP.
        remote = VersionStore(Settings(data_dir=tmp_path / "elsewhere", tracking_uri=url))
        second = remote.log(LogRequest("demo", "react", LMChoice("demo/engine")), programs)
        assert [v.version for v in remote.versions()] == [2, 1] and second.servable
        assert remote.load(second.uri).name == "react"
        assert remote.promote(second.uri).champion
        assert await MLflowPages(remote.tracking).open() == url, "a remote server is only linked to"

        os.killpg(state.pid or 0, signal.SIGKILL)
        await until(lambda: pages.state().phase == "failed", 2)
        assert pages.url == "" and pages.state().reason
    finally:
        await pages.stop()
    assert pages.state().phase == "failed", "it had ended before"


async def test_a_store_that_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    pages = MLflowPages(VersionStore(Settings(data_dir=tmp_path / "file" / "x")).tracking)
    with pytest.raises(TrackingUnavailable):
        await pages.open()
