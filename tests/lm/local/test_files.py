"""From a model string to a file: downloaded, brought by a package, left by another program."""

import hashlib
from pathlib import Path

import pytest

from dspy_demo.errors import ModelSetupError
from dspy_demo.lm.local import files
from dspy_demo.lm.local.files import find, offered, trained_context
from dspy_demo.settings import Settings
from tests.fake_hub import gguf_bytes, known_for
from tests.services import settings_for
from tests.tiny_gguf import write_tiny_gguf

CONTENT = gguf_bytes(2_000)
MODEL = known_for(CONTENT)


@pytest.fixture
def settings(data_dir: Path, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr(files, "KNOWN", (MODEL,))
    return settings_for(data_dir, models_dir=tmp_path / "models")


def put(path: Path, content: bytes = CONTENT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def hub_cached(home: Path, content: bytes, file: str) -> Path:
    """A file as Hugging Face's own tools store it: a link to a blob that is named by its checksum."""
    repo = home / ".cache/huggingface/hub" / f"models--{MODEL.repo.replace('/', '--')}"
    link = put(repo / "snapshots" / MODEL.revision / file)
    link.unlink()
    link.symlink_to(put(repo / "blobs" / hashlib.sha256(content).hexdigest(), content))
    return link


def test_a_file_is_found_by_its_name_where_it_is_whole_or_by_its_path(settings, home):
    path = put(settings.models_dir / "tiny-instruct.gguf")
    model = find("local/tiny-instruct", settings)
    assert (model.path, model.title, model.sha256) == (path, "Tiny Instruct", MODEL.sha256)
    put(path, CONTENT[:-1])  # it lost its end
    with pytest.raises(ModelSetupError, match="models pull tiny-instruct"):
        find("local/tiny-instruct", settings)
    mine = put(home / "Some.Model.GGUF")
    model = find("local/~/Some.Model.GGUF", settings)
    assert (model.path, model.sha256, model.title) == (mine, "", "Some.Model")


def test_what_is_not_here_is_an_error_with_what_to_do(settings):
    text, folder = put(settings.models_dir / "a.gguf", b"<!doctype html>" * 9), settings.models_dir / "b.gguf"
    folder.mkdir()
    rows = [("no-such-name", r"Name a file as local/PATH.gguf, or one of local/tiny-instruct")]
    rows += [(str(path), "is no GGUF file") for path in (text, folder, Path("/nowhere/x.gguf"))]
    for name, sentence in rows:
        with pytest.raises(ModelSetupError, match=sentence):
            find(f"local/{name}", settings)
    assert offered(settings) == []


def test_files_of_other_programs_are_offered_each_once(settings, home):
    put(settings.models_dir / "tiny-instruct.gguf")
    hub_cached(home, CONTENT, MODEL.file)  # the same file again
    hub_cached(home, gguf_bytes(2_001), "other.gguf")
    put(home / ".lmstudio/models/someone/Repo-GGUF/a.gguf", gguf_bytes(2_002))
    put(home / ".cache/llama.cpp/b.gguf", gguf_bytes(2_003))
    put(settings.models_dir / "mine.gguf", gguf_bytes(2_005))
    put(settings.models_dir / "embedding.gguf", gguf_bytes(2_006))
    put(settings.models_dir / "big-00002-of-00003.gguf", gguf_bytes(2_008))
    (settings.models_dir / "gone.gguf").symlink_to(home / "nothing")
    found = {model.title: where for model, where in offered(settings)}
    programs = {"other": "Hugging Face", "a": "LM Studio", "b": "llama.cpp"}
    assert found == {"Tiny Instruct": "local", "mine": "your folder"} | programs
    assert all(find(model.model, settings).path == model.path for model, _ in offered(settings))


def test_what_is_known_of_a_file_and_what_lies_outside_is_not_deleted(tmp_path):
    assert trained_context(write_tiny_gguf(tmp_path / "m.gguf", context=777)) == 777
    outside = put(tmp_path / "mine.gguf")
    (tmp_path / "models").mkdir()
    with pytest.raises(ModelSetupError, match="There is no model"):
        files.remove(tmp_path / "models", "../mine")
    assert outside.exists()
