"""A model comes whole or not at all, and every fault on the way is one sentence."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import filelock
import pytest

from dspy_demo.errors import Busy, DownloadFailed
from dspy_demo.lm.local_models import find
from dspy_demo.lm.local_models import folder as files
from dspy_demo.lm.local_models.download import download
from dspy_demo.lm.local_models.known import KnownModel
from dspy_demo.lm.local_models.progress import Progress
from dspy_demo.lm.local_models.transfer import Patience
from dspy_demo.settings import Settings
from tests.fake_hub import FakeHub, gguf_bytes, known_for
from tests.fake_openai import refused_url
from tests.services import settings_for, until

CONTENT = gguf_bytes()
MODEL = known_for(CONTENT)
QUICK = Patience(probe_s=1.0, connect_s=1.0, silence_s=0.3, pause_s=0.01)


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub(CONTENT) as fake:
        yield fake


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "models"


@pytest.fixture
def settings(data_dir: Path, folder: Path, hub: FakeHub) -> Settings:
    return settings_for(data_dir, models_dir=folder, hub_url=hub.url)


def part(settings: Settings) -> Path:
    return files.part_of(settings.models_dir, MODEL.name)


def left_behind(settings: Settings, size: int) -> None:
    """A download before this one got so far."""
    settings.models_dir.mkdir(parents=True)
    part(settings).write_bytes(CONTENT[:size])


async def fails(settings: Settings, model: KnownModel = MODEL) -> str:
    """The sentence with which the download fails."""
    with pytest.raises(DownloadFailed) as caught:
        await download(model, settings, patience=QUICK)
    assert not list(files.downloaded(settings.models_dir)), "nothing counts as downloaded"
    message = caught.value.public_message
    assert message.endswith(".") and "signature" not in message
    return message


# It works


async def test_a_model_comes_over_the_redirect_and_can_be_found(settings: Settings, hub: FakeHub) -> None:
    seen: list[Progress] = []
    model = await download(MODEL, settings, seen.append, QUICK)
    assert model.path.read_bytes() == CONTENT
    assert [asked.method for asked in hub.asked] == ["HEAD", "GET", "GET"]
    assert f"/{MODEL.repo}/resolve/{MODEL.revision}/{MODEL.file}" == hub.asked[0].path
    assert [seen[0].phase, seen[-1].phase] == ["connecting", "checking"]
    amounts = [progress.received_bytes for progress in seen]
    assert amounts == sorted(amounts) and amounts[-1] == len(CONTENT)
    assert find(model.model, settings) == model
    record = json.loads((settings.models_dir / "tiny-instruct.json").read_text())
    assert (record["sha256"], record["revision"]) == (MODEL.sha256, MODEL.revision)
    assert not part(settings).exists()


async def test_one_that_is_here_is_not_asked_for(settings: Settings, hub: FakeHub) -> None:
    first = await download(MODEL, settings, patience=QUICK)
    hub.asked.clear()
    assert await download(MODEL, settings, patience=QUICK) == first
    assert hub.asked == []


async def test_the_next_try_goes_on_where_the_last_one_stopped(settings: Settings, hub: FakeHub) -> None:
    left_behind(settings, 70_000)
    seen: list[Progress] = []
    model = await download(MODEL, settings, seen.append, QUICK)
    assert model.path.read_bytes() == CONTENT
    assert (hub.gets[0].range, hub.gets[0].sent) == ("bytes=70000-", len(CONTENT) - 70_000)
    assert seen[0].received_bytes == 70_000


async def test_a_part_that_lacks_nothing_needs_no_network(settings: Settings, hub: FakeHub) -> None:
    left_behind(settings, len(CONTENT))
    assert (await download(MODEL, settings, patience=QUICK)).path.read_bytes() == CONTENT
    assert hub.asked == []


async def test_a_server_that_ignores_the_range_sends_it_all_again(settings: Settings, hub: FakeHub) -> None:
    left_behind(settings, 70_000)
    hub.ignores_range = True
    assert (await download(MODEL, settings, patience=QUICK)).path.read_bytes() == CONTENT


async def test_a_cut_is_mended_without_asking(settings: Settings, hub: FakeHub) -> None:
    hub.cuts = [50_000, 16_384, None]
    assert (await download(MODEL, settings, patience=QUICK)).path.read_bytes() == CONTENT
    assert [asked.range for asked in hub.gets] == [None, "bytes=50000-", "bytes=66384-"]


@pytest.mark.parametrize("odd", ["knows_head", "linked", "says_length"])
async def test_a_plain_mirror_will_do(settings: Settings, hub: FakeHub, odd: str) -> None:
    setattr(hub, odd, False)
    assert (await download(MODEL, settings, patience=QUICK)).path.read_bytes() == CONTENT


async def test_a_part_of_a_longer_file_is_begun_anew(settings: Settings, hub: FakeHub) -> None:
    settings.models_dir.mkdir()
    part(settings).write_bytes(CONTENT + b"more")
    assert (await download(MODEL, settings, patience=QUICK)).path.read_bytes() == CONTENT


# Stopping


async def test_cancelling_closes_the_connection_and_keeps_the_part(settings: Settings, hub: FakeHub) -> None:
    hub.bytes_per_s = 200_000
    task = asyncio.create_task(download(MODEL, settings, patience=QUICK))
    await until(lambda: part(settings).exists() and part(settings).stat().st_size > 20_000)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    size = part(settings).stat().st_size
    assert part(settings).read_bytes() == CONTENT[:size]
    await until(lambda: hub.gets[0].client_left)
    hub.bytes_per_s = 0
    assert (await download(MODEL, settings, patience=QUICK)).path.read_bytes() == CONTENT
    assert hub.gets[1].range == f"bytes={size}-"


# Faults of the network


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (401, "without an account"),
        (403, "without an account"),
        (404, "has no tiny-instruct.gguf"),
        (429, "too many requests"),
        (503, "Try again later"),
    ],
)
async def test_a_refusal_is_told(settings: Settings, hub: FakeHub, status: int, said: str) -> None:
    left_behind(settings, 70_000)
    hub.status = status
    message = await fails(settings)
    assert said in message and f"HTTP {status}" in message
    assert part(settings).stat().st_size == 70_000


async def test_offline_it_fails_at_once(settings: Settings) -> None:
    offline = settings.model_copy(update={"hub_url": refused_url().removesuffix("/v1")})
    message = await fails(offline)
    assert "cannot be reached" in message and "--hub-url" in message


async def test_a_silent_network_is_given_up_after_the_probe(settings: Settings, hub: FakeHub) -> None:
    hub.silent = True
    patience = Patience(probe_s=0.3)
    started = time.monotonic()
    with pytest.raises(DownloadFailed, match="cannot be reached"):
        await download(MODEL, settings, patience=patience)
    assert time.monotonic() - started < 2


async def test_cut_again_and_again_it_gives_up_and_keeps_the_part(settings: Settings, hub: FakeHub) -> None:
    hub.cuts = [50_000, *[0] * 9]
    message = await fails(settings)
    assert "broke, at 25 %" in message and "is kept" in message
    assert part(settings).stat().st_size == 50_000
    assert len(hub.gets) == 4


async def test_a_stall_ends_and_keeps_the_part(settings: Settings, hub: FakeHub) -> None:
    hub.stalls_at = 50_000
    assert "has stopped sending, at 25 %" in await fails(settings)
    assert part(settings).stat().st_size == 50_000


async def test_a_redirect_to_nowhere_is_told(settings: Settings, hub: FakeHub) -> None:
    hub.loops = True
    assert "does not lead to the file" in await fails(settings)


# Faults of the file


async def test_a_wrong_checksum_is_not_kept(settings: Settings, hub: FakeHub) -> None:
    hub.content, hub.linked = CONTENT[:-1] + b"?", False
    assert "another checksum" in await fails(settings)
    assert not part(settings).exists()


@pytest.mark.parametrize("portal", [True, False])
async def test_another_file_is_noticed_before_it_comes(
    settings: Settings, hub: FakeHub, portal: bool
) -> None:
    left_behind(settings, 70_000)
    hub.portal, hub.sha256 = portal, "0" * 64
    assert "does not give the expected" in await fails(settings)
    assert hub.gets == []
    assert part(settings).stat().st_size == 70_000


@pytest.mark.parametrize(
    "wrong",
    [
        {"content": b"<!doctype html>".ljust(len(CONTENT))},
        {"content": CONTENT + b"more"},
        {"content": CONTENT + b"more", "says_length": False},
        {"content": CONTENT[:60_000]},
    ],
)
async def test_another_file_is_noticed_when_it_comes(
    settings: Settings, hub: FakeHub, wrong: dict[str, Any]
) -> None:
    for name, value in ({"linked": False, "knows_head": False} | wrong).items():
        setattr(hub, name, value)
    assert "does not give the expected" in await fails(settings)


@pytest.mark.parametrize("content_range", ["bytes 0-199999/200000", "bytes 70000-80000/90000", "nonsense"])
async def test_a_wrong_continuation_is_not_appended(
    settings: Settings, hub: FakeHub, content_range: str
) -> None:
    left_behind(settings, 70_000)
    hub.content_range = content_range
    assert "does not give the expected" in await fails(settings)
    assert part(settings).read_bytes() == CONTENT[:70_000]


# Faults of this machine


async def test_too_little_room_is_told_before_anything_comes(
    settings: Settings, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1_000_000))
    message = await fails(settings)
    assert "needs 64 MB of disk" in message and "only 1.00 MB are free" in message
    assert hub.gets == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
async def test_a_disk_that_gets_full_is_told(settings: Settings) -> None:
    settings.models_dir.mkdir()
    part(settings).symlink_to("/dev/full")
    assert "is full" in await fails(settings)


async def test_a_folder_that_cannot_be_written_is_told(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    message = await fails(settings.model_copy(update={"models_dir": tmp_path / "file" / "models"}))
    assert "cannot be written" in message and "--models-dir" in message


async def test_two_processes_do_not_download_the_same(settings: Settings, hub: FakeHub) -> None:
    settings.models_dir.mkdir()
    with filelock.FileLock(files.lock_of(settings.models_dir, MODEL.name)), pytest.raises(Busy):
        await download(MODEL, settings, patience=QUICK)
    assert hub.asked == []
    await download(MODEL, settings, patience=QUICK)
