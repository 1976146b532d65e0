"""The one download of an app, as everybody who looks sees it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from dspy_demo.errors import Busy, ModelSetupError
from dspy_demo.lm.local_models import folder as files
from dspy_demo.lm.local_models import known
from dspy_demo.lm.local_models.downloads import Downloads, DownloadState
from dspy_demo.lm.local_models.transfer import Patience
from dspy_demo.settings import Settings
from tests.fake_hub import FakeHub, gguf_bytes, known_for
from tests.services import settings_for, until

CONTENT = gguf_bytes()
MODEL, OTHER = known_for(CONTENT), known_for(gguf_bytes(seed=2), "other-instruct")


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub(CONTENT) as fake:
        yield fake


@pytest.fixture
def settings(data_dir: Path, tmp_path: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr(known, "KNOWN", (MODEL, OTHER))
    return settings_for(data_dir, models_dir=tmp_path / "models", hub_url=hub.url, hub_cache_dir=tmp_path)


@pytest.fixture
async def downloads(settings: Settings) -> AsyncIterator[Downloads]:
    running = Downloads(settings, Patience(pause_s=0.01, silence_s=0.5))
    yield running
    await running.aclose()


def state(downloads: Downloads) -> DownloadState:
    return downloads.states()[0]


async def ended(downloads: Downloads) -> None:
    await until(lambda: not downloads.busy)


async def test_from_absent_to_here(downloads: Downloads) -> None:
    assert [row.phase for row in downloads.states()] == ["absent", "absent"]
    downloads.start(MODEL.name)
    assert state(downloads).phase == "running"
    await ended(downloads)
    assert [row.phase for row in downloads.states()] == ["here", "absent"]


async def test_who_comes_second_sees_the_same_download(downloads: Downloads, hub: FakeHub) -> None:
    hub.bytes_per_s = 200_000
    downloads.start(MODEL.name)
    await until(lambda: (progress := state(downloads).progress) and progress.received_bytes > 20_000)
    downloads.start(MODEL.name)
    with pytest.raises(Busy, match="Another model"):
        downloads.start(OTHER.name)
    assert len(hub.gets) == 1


async def test_a_cancelled_one_is_partial_and_goes_on(downloads: Downloads, hub: FakeHub) -> None:
    hub.bytes_per_s = 200_000
    downloads.start(MODEL.name)
    await until(lambda: (progress := state(downloads).progress) and progress.received_bytes > 20_000)
    await downloads.cancel()
    stopped = state(downloads)
    assert stopped.phase == "partial" and stopped.progress and stopped.progress.received_bytes > 20_000
    hub.bytes_per_s = 0
    downloads.start(MODEL.name)
    await ended(downloads)
    assert state(downloads).phase == "here"


async def test_the_apps_end_stops_it_and_lets_go_of_the_lock(
    downloads: Downloads, hub: FakeHub, settings: Settings
) -> None:
    hub.bytes_per_s = 200_000
    downloads.start(MODEL.name)
    await until(lambda: (progress := state(downloads).progress) and progress.received_bytes > 20_000)
    await downloads.aclose()
    with files.locked(settings.models_dir, MODEL.name):
        assert files.part_of(settings.models_dir, MODEL.name).stat().st_size > 20_000
    await until(lambda: hub.gets[0].client_left)


async def test_a_failure_has_its_reason_until_the_next_try(downloads: Downloads, hub: FakeHub) -> None:
    hub.status = 503
    downloads.start(MODEL.name)
    await ended(downloads)
    assert state(downloads).phase == "absent" and "HTTP 503" in state(downloads).reason
    hub.status = None
    downloads.start(MODEL.name)
    assert state(downloads).reason == ""
    await ended(downloads)
    assert state(downloads).phase == "here"


async def test_a_bug_is_a_number_in_the_log(downloads: Downloads, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr("dspy_demo.lm.local_models.download.url_of", broken)
    downloads.start(MODEL.name)
    await ended(downloads)
    assert state(downloads).reason and "secret" not in state(downloads).reason


async def test_only_known_names_are_downloaded(downloads: Downloads) -> None:
    with pytest.raises(ModelSetupError, match=r"no model “\.\./x”"):
        downloads.start("../x")
    await asyncio.sleep(0)
    assert not downloads.busy
