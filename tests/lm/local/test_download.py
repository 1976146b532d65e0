"""A model comes whole or not at all, and every fault on the way is one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock
import pytest

from dspy_demo.errors import Busy, DownloadFailed
from dspy_demo.lm.local import download as module
from dspy_demo.lm.local import files, runtime
from dspy_demo.lm.local.command import models_command
from dspy_demo.lm.local.download import Downloads, download
from dspy_demo.settings import Settings
from tests.fake_hub import FakeHub, gguf_bytes, known_for
from tests.fake_openai import refused_url
from tests.services import settings_for, until

CONTENT = gguf_bytes()
MODEL, OTHER = known_for(CONTENT), known_for(gguf_bytes(200_001), "other-instruct")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    monkeypatch.setattr(files, "KNOWN", (MODEL, OTHER))
    monkeypatch.setattr(module, "SILENCE_S", 0.3)
    with FakeHub(CONTENT) as fake:
        yield fake


@pytest.fixture
def settings(data_dir: Path, tmp_path: Path, hub: FakeHub, home: Path) -> Settings:
    (tmp_path / "models").mkdir()
    return settings_for(data_dir, models_dir=tmp_path / "models", hub_url=hub.url)


@pytest.fixture
def part(settings: Settings) -> Path:
    return settings.models_dir / "tiny-instruct.gguf.part"


async def failure(settings: Settings) -> str:
    """The sentence with which the download fails."""
    with pytest.raises(DownloadFailed) as caught:
        await download(MODEL, settings)
    assert files.present(MODEL, settings.models_dir) is None
    assert "signature" not in caught.value.public_message
    return caught.value.public_message


@pytest.mark.parametrize(
    ("left", "ignores_range", "ranges"),
    [
        (0, False, ["bytes=0-"]),
        (70_000, False, ["bytes=70000-"]),
        (70_000, True, ["bytes=70000-"]),
        (len(CONTENT), False, []),
    ],
)
async def test_a_model_comes_over_the_redirect_from_where_the_last_try_stopped(
    settings: Settings, hub: FakeHub, part: Path, left: int, ignores_range: bool, ranges: list[Any]
) -> None:
    part.write_bytes(CONTENT[:left])
    hub.ignores_range = ignores_range
    amounts: list[int] = []
    model = await download(MODEL, settings, amounts.append)
    assert model.path.read_bytes() == CONTENT and not part.exists()
    assert amounts == sorted(amounts) and (not ranges or amounts[-1] == len(CONTENT))
    assert await download(MODEL, settings) == model == files.find(model.model, settings)
    assert hub.ranges == ranges
    assert hub.paths[:1] in ([], [f"/{MODEL.repo}/resolve/{MODEL.revision}/{MODEL.file}"])


async def test_each_fault_is_one_sentence_and_keeps_what_is_right(
    settings: Settings, hub: FakeHub, part: Path
) -> None:
    part.write_bytes(CONTENT[:70_000])
    for name, value, sentence in (
        ("status", 503, "does not give tiny-instruct.gguf as expected (HTTP 503)"),
        ("status", None, "failed. What has arrived is kept"),
    ):
        hub.stalls_at = 80_000
        setattr(hub, name, value)
        assert sentence in await failure(settings)
    assert part.read_bytes() == CONTENT[: part.stat().st_size] and part.stat().st_size >= 70_000
    hub.stalls_at = None
    hub.content = CONTENT[:-1] + b"?"
    assert "another checksum" in await failure(settings)
    assert not part.exists()
    hub.content = b"<!doctype html>" * 20_000  # a network that asks for a sign-in
    assert "as expected" in await failure(settings)
    with filelock.FileLock(part.with_suffix(".lock"), thread_local=False), pytest.raises(Busy):
        await download(MODEL, settings)
    offline = settings.model_copy(update={"hub_url": refused_url().removesuffix("/v1")})
    assert "--hub-url" in await failure(offline)
    part.unlink(missing_ok=True)
    hub.content = CONTENT
    part.symlink_to("/dev/full")
    assert "is full or cannot be written" in await failure(settings)


async def test_one_model_comes_at_a_time_and_a_fault_is_kept(settings: Settings, hub: FakeHub) -> None:
    """`tests/browser/test_sections.py` shows the progress, the cancelling and the going on."""
    downloads, hub.status = Downloads(settings), 503
    downloads.start(MODEL.name)
    with pytest.raises(Busy, match="A model is"):
        downloads.start(OTHER.name)
    await until(lambda: not downloads.busy)
    states = downloads.states()
    assert [row.phase for row in states] == ["absent", "absent"] and "HTTP 503" in states[0].reason


def test_pull_list_rm(settings: Settings, hub: FakeHub, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = settings.models_dir

    def run(*words: str) -> int:
        return models_command([*words, "--models-dir", str(folder)], {"HF_ENDPOINT": hub.url})

    monkeypatch.setattr(runtime, "MODULE", "no_such_module")
    assert run("pull") == 0
    pulled = capsys.readouterr()
    assert "--lm local/tiny-instruct" in pulled.err and runtime.INSTALL_LINE in pulled.err
    (folder / "mine.gguf").write_bytes(gguf_bytes(3_000))
    assert run("list") == 0
    rows = [line.split(maxsplit=3) for line in capsys.readouterr().out.splitlines()]
    assert [(row[0], row[3]) for row in rows] == [
        ("local/tiny-instruct", "local"),
        ("local/other-instruct", "not downloaded"),
        (f"local/{folder / 'mine.gguf'}", "your folder"),
    ]
    assert run("rm", "tiny-instruct") == 0
    assert run("rm", "tiny-instruct") == 2
    assert run("pull", "nothing") == 2
    assert "Choose tiny-instruct or other-instruct" in capsys.readouterr().err
