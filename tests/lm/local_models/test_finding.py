"""From a model string to a file, and what other programs have left on this machine."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from dspy_demo.errors import Busy, ModelSetupError
from dspy_demo.lm.local_models import checksum, find, known, offered
from dspy_demo.lm.local_models import folder as files
from dspy_demo.settings import Settings
from tests.fake_hub import gguf_bytes, known_for
from tests.services import settings_for

CONTENT = gguf_bytes(2_000)
MODEL = known_for(CONTENT)


@pytest.fixture(autouse=True)
def known_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known, "KNOWN", (MODEL,))


@pytest.fixture
def settings(data_dir: Path, tmp_path: Path, home: Path) -> Settings:
    return settings_for(
        data_dir, models_dir=tmp_path / "models", hub_cache_dir=home / ".cache/huggingface", gguf_dir=tmp_path
    )


def put(path: Path, content: bytes = CONTENT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def downloaded(settings: Settings) -> None:
    files.keep(settings.models_dir, MODEL, put(settings.models_dir / "arrived"))


def hub_cached(root: Path, content: bytes = CONTENT, file: str = MODEL.file) -> Path:
    """A file as Hugging Face's own tools store it: a link to a blob that is named by its checksum."""
    repo = root / f"models--{MODEL.repo.replace('/', '--')}"
    blob = put(repo / "blobs" / hashlib.sha256(content).hexdigest(), content)
    link = repo / "snapshots" / MODEL.revision / file
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(blob)
    return link


def test_a_downloaded_model_is_found_by_its_name(settings: Settings) -> None:
    downloaded(settings)
    model = find("local/tiny-instruct", settings)
    assert model.path == settings.models_dir / "tiny-instruct.gguf"
    assert (model.repo, model.revision, model.sha256) == (MODEL.repo, MODEL.revision, MODEL.sha256)
    assert (model.size_bytes, model.title, model.licence) == (2_000, "Tiny Instruct", "Apache-2.0")
    assert checksum(model) == MODEL.sha256


def test_any_file_is_found_by_its_path(settings: Settings, tmp_path: Path, home: Path) -> None:
    path = put(tmp_path / "Some.Model.GGUF")
    model = find(f"local/{path}", settings)
    assert (model.path, model.sha256, model.title) == (path, "", "Some.Model")
    assert checksum(model) == hashlib.sha256(CONTENT).hexdigest()
    assert find(model.model, settings) == model
    put(home / "mine.gguf")
    assert find("local/~/mine.gguf", settings).path == home / "mine.gguf"


def test_a_path_may_be_relative(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "here.gguf")
    monkeypatch.chdir(tmp_path)
    assert find("local/here.gguf", settings).path == tmp_path / "here.gguf"


def test_a_name_is_also_found_in_the_hugging_face_cache(settings: Settings) -> None:
    link = hub_cached(settings.hub_cache_dir / "hub")
    model = find("local/tiny-instruct", settings)
    assert (model.name, model.path, model.sha256) == ("tiny-instruct", link, MODEL.sha256)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("local/tiny-instruct", "python app.py models pull tiny-instruct"),
        ("local/no-such-name", "Name a file as local/PATH.gguf, or one of local/tiny-instruct"),
        ("local//nowhere/x.gguf", "There is no file /nowhere/x.gguf"),
    ],
)
def test_what_is_not_here_is_told_with_what_to_do(settings: Settings, model: str, said: str) -> None:
    with pytest.raises(ModelSetupError) as caught:
        find(model, settings)
    assert said in caught.value.public_message


@pytest.mark.parametrize("content", [b"", b"GGUF", b"PK\x03\x04" + bytes(100), b"<!doctype html>" * 9])
def test_what_is_no_gguf_is_told(settings: Settings, tmp_path: Path, content: bytes) -> None:
    path = put(tmp_path / "x.gguf", content)
    with pytest.raises(ModelSetupError, match="not a GGUF file"):
        find(f"local/{path}", settings)
    assert offered(settings) == []


def test_a_folder_is_no_model(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "x.gguf").mkdir()
    with pytest.raises(ModelSetupError, match="cannot be read"):
        find(f"local/{tmp_path / 'x.gguf'}", settings)


def test_a_file_that_lost_its_end_counts_as_none(settings: Settings) -> None:
    downloaded(settings)
    put(settings.models_dir / "tiny-instruct.gguf", CONTENT[:-1])
    with pytest.raises(ModelSetupError, match="has not been downloaded"):
        find("local/tiny-instruct", settings)


def test_a_model_that_only_another_version_of_the_app_knows_is_found(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    downloaded(settings)
    monkeypatch.setattr(known, "KNOWN", ())
    assert find("local/tiny-instruct", settings).sha256 == MODEL.sha256


def test_files_of_other_programs_are_offered_each_once(
    settings: Settings, home: Path, tmp_path: Path
) -> None:
    downloaded(settings)
    hub_cached(settings.hub_cache_dir / "hub")  # the same file again
    hub_cached(settings.hub_cache_dir, gguf_bytes(2_001), "other.gguf")  # as HF_HUB_CACHE has it
    put(home / ".lmstudio/models/someone/Repo-GGUF/a.gguf", gguf_bytes(2_002))
    put(home / ".cache/llama.cpp/b.gguf", gguf_bytes(2_003))
    put(home / ".local/share/nomic.ai/GPT4All/c.gguf", gguf_bytes(2_004))
    put(tmp_path / "d.gguf", gguf_bytes(2_005))
    found = {model.title: where for model, where in offered(settings)}
    assert found == {
        "Tiny Instruct": "local",
        "other": "Hugging Face",
        "a": "LM Studio",
        "b": "llama.cpp",
        "c": "GPT4All",
        "d": str(tmp_path),
    }
    assert all(find(model.model, settings).path == model.path for model, _ in offered(settings))


def test_what_cannot_chat_is_not_offered(settings: Settings, tmp_path: Path) -> None:
    put(tmp_path / "embedding.gguf", gguf_bytes(2_000, "nomic-bert"))
    put(tmp_path / "mmproj-model-f16.gguf", gguf_bytes(2_001, "clip"))
    put(tmp_path / "big-00002-of-00003.gguf", gguf_bytes(2_002))
    put(tmp_path / "big-00001-of-00003.gguf", gguf_bytes(2_003))
    (tmp_path / "gone.gguf").symlink_to(tmp_path / "nothing")
    assert [model.title for model, _ in offered(settings)] == ["big-00001-of-00003"]


def test_a_model_can_be_deleted(settings: Settings) -> None:
    downloaded(settings)
    assert files.remove(settings.models_dir, "tiny-instruct") > 2_000
    assert offered(settings) == []
    with pytest.raises(ModelSetupError, match="There is no model"):
        files.remove(settings.models_dir, "tiny-instruct")


def test_nothing_outside_the_folder_is_deleted(settings: Settings, tmp_path: Path) -> None:
    settings.models_dir.mkdir()
    outside = put(tmp_path / "mine.gguf")
    with pytest.raises(ModelSetupError):
        files.remove(settings.models_dir, "../mine")
    assert outside.exists()


def test_a_model_on_its_way_is_not_deleted(settings: Settings) -> None:
    downloaded(settings)
    with files.locked(settings.models_dir, "tiny-instruct"), pytest.raises(Busy):
        files.remove(settings.models_dir, "tiny-instruct")
    assert len(offered(settings)) == 1


def test_the_models_to_download_are_pinned() -> None:
    from dspy_demo.lm.local_models.known import KNOWN  # as it is in the file, whatever a test puts there

    for model in KNOWN:
        assert len(model.sha256) == 64 and len(model.revision) == 40, model.name
        int(model.sha256, 16), int(model.revision, 16)
