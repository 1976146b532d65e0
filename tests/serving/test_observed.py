"""A watched model server: JSON log, the app's turn ids in it, figures, and the end by SIGTERM."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from dspy_demo.backends.served import ServedBackend
from dspy_demo.events import LMChoice, ServedTarget, TurnRequest
from dspy_demo.settings import Settings
from tests.backends.served_fixtures import log_versions, start_model_server
from tests.fake_openai import FAULTS, FakeOpenAI
from tests.processes import ServerProcess
from tests.services import house, settings_for, until

pytestmark = pytest.mark.integration

QUESTION, KEY = "Why does a zebra crossing have stripes?", "sk-planted-5ca1ab1e"
TALKATIVE = {
    "DSPY_DEMO_LOG_FORMAT": "json",
    "DSPY_DEMO_LOG_LEVEL": "debug",
    "DSPY_DEMO_SHUTDOWN_GRACE_S": "3",
    "OPENAI_API_KEY": KEY,
}


@dataclass
class Watched:
    fake: FakeOpenAI
    settings: Settings
    version: str
    home: Path

    @contextlib.contextmanager
    def server(self) -> Iterator[ServerProcess]:
        server = start_model_server(self.version, self.settings, self.home, env=TALKATIVE)
        try:
            server.wait_until_healthy("/ready")
            yield server
        finally:
            if not server.group_ended:
                server.stop()

    def request(self, server: ServerProcess) -> TurnRequest:
        return TurnRequest(ServedTarget(server.url, self.version), {"question": QUESTION})


@pytest.fixture(scope="module")
def watched() -> Iterator[Watched]:
    with FakeOpenAI() as fake, tempfile.TemporaryDirectory() as folder:
        settings = settings_for(Path(folder) / "data", tracing=False)
        (version,) = log_versions(settings, LMChoice("openai/fake", fake.url, cache=False))
        yield Watched(fake, settings, version, Path(folder) / "home")


def entries(server: ServerProcess) -> list[dict]:
    """The log, without the first line, with which the server says that it is up on stdout."""
    first, *lines = server.log.splitlines()
    assert first.startswith("Serving models:/")
    return [json.loads(line) for line in lines]


async def test_one_id_leads_from_the_app_to_the_log_of_its_server(
    watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    with watched.server() as server:
        watched.fake.reply(FAULTS["429"])
        async with house(watched.settings, served=ServedBackend(watched.settings)) as home:
            failed = (await home.run(watched.request(server))).failed
            answered = watched.request(server)
            assert (await home.run(answered)).finished
        (here,) = (r for r in caplog.records if getattr(r, "turn_id", "") == failed.error_id)
        assert (here.backend, here.code, here.message) == ("served", "upstream_rate_limited", "turn failed")
        assert not hasattr(here, "server_error_id")
        by_id = {entry["turn_id"]: entry for entry in entries(server) if "turn_id" in entry}
        there = by_id[failed.error_id]
        assert (there["level"], there["message"], there["code"]) == (
            "WARNING",
            "turn failed",
            "upstream_rate_limited",
        )
        assert by_id[answered.turn_id]["message"] == "turn finished"
        assert by_id[answered.turn_id]["completion_tokens"] > 0
        for planted in (KEY, "zebra", "stripes"):
            assert planted not in server.log

        async with httpx.AsyncClient(base_url=server.url, trust_env=False) as client:
            families = list(text_string_to_metric_families((await client.get("/metrics")).text))
            ready = await client.get("/ready")
        turns = {
            (sample.labels["outcome"], sample.labels["code"]): sample.value
            for family in families
            for sample in family.samples
            if sample.name == "dspy_demo_turns_total"
        }
        assert turns == {("finished", ""): 1, ("failed", "upstream_rate_limited"): 1}
        assert ready.json() == {"ready": True, "reason": "", "tracking": "off", "model_server": "none"}


async def test_sigterm_ends_what_takes_too_long_with_a_last_event(watched: Watched) -> None:
    with watched.server() as server:
        watched.fake.reply(tokens_per_second=5, filler_chars=5_000)
        async with house(watched.settings, served=ServedBackend(watched.settings)) as home:
            request = watched.request(server)
            running = asyncio.create_task(home.run(request))
            await until(lambda: watched.fake.active_streams, 20)
            begun = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            heard = await running
        assert (heard.failed.code, heard.failed.retryable) == ("stopped", True)
        assert "What arrived is kept" in heard.failed.public_message
        assert await asyncio.to_thread(server.process.wait, 15) == 0
        assert 2.5 < time.monotonic() - begun < 12
        await watched.fake.await_for(lambda: watched.fake.active_streams == 0, 5)
        (told,) = (entry for entry in entries(server) if entry.get("turn_id") == request.turn_id)
        assert (told["code"], told["outcome"]) == ("stopped", "failed")
