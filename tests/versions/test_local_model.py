"""A version on a model file: it names the file by checksum, finds it again, and never holds its weights."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from dspy_demo.errors import ModelSetupError
from dspy_demo.events import LMChoice
from dspy_demo.lm.local.files import KNOWN, find, missing, record, the_same
from dspy_demo.programs.registry import ProgramRegistry
from dspy_demo.settings import Settings
from dspy_demo.versions import LogRequest, VersionStore
from tests.tiny_gguf import write_tiny_gguf


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("models") / "tiny.gguf")


def test_a_version_names_the_file_and_does_not_hold_it(
    store: VersionStore, programs: ProgramRegistry, name: str, artifacts: Callable[[str], Path], tiny: Path
) -> None:
    """The weights stay where they are, and the program comes back with the model."""
    Path("tiny.gguf").symlink_to(tiny)
    choice = LMChoice("local/tiny.gguf", max_tokens=60)
    version = store.log(LogRequest(name, "chain_of_thought", choice), programs)
    Path("tiny.gguf").unlink()
    assert version.servable and Path(version.lm.removeprefix("local/")).is_absolute()
    loaded = store.load(version.uri)
    assert (loaded.lm.model, loaded.lm.max_tokens) == (version.lm, 60)
    folder = artifacts(version.uri)
    noted = yaml.safe_load((folder / "MLmodel").read_text())["metadata"]["dspy_demo"]["lm"]["file"]
    assert noted["sha256"] == hashlib.sha256(tiny.read_bytes()).hexdigest()
    assert noted["size_bytes"] == tiny.stat().st_size and "path" not in noted
    assert not list(folder.rglob("*.gguf"))
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) < 2_000_000
    assert "xllamacpp==" in (folder / "requirements.txt").read_text()


def test_the_same_file_is_found_under_any_name(tmp_path: Path, tiny: Path, home: Path) -> None:
    settings = Settings(data_dir=tmp_path, models_dir=tmp_path / "m")
    noted = record(find(f"local/{tiny}", settings).identified())
    assert the_same(noted, settings).path == tiny
    repo = home / ".cache/huggingface/hub/models--owner--repo"
    snapshot, blob = repo / "snapshots" / ("a" * 40), repo / "blobs" / noted["sha256"]
    for folder in (snapshot, blob.parent):
        folder.mkdir(parents=True)
    blob.write_bytes(tiny.read_bytes())
    (snapshot / "renamed.gguf").symlink_to(blob)
    elsewhere = {**noted, "name": "/nowhere/tiny.gguf"}
    assert the_same(elsewhere, settings).path == snapshot / "renamed.gguf"


def test_another_file_of_that_name_is_not_taken(tmp_path: Path, tiny: Path) -> None:
    settings = Settings(data_dir=tmp_path, models_dir=tmp_path / "m")
    noted = {**record(find(f"local/{tiny}", settings).identified()), "sha256": "0" * 64}
    with pytest.raises(ModelSetupError, match=r"SHA-256 0{12}.*not on this machine"):
        the_same(noted, settings)


def test_the_sentence_says_what_to_pull() -> None:
    known = KNOWN[0]
    sentence = missing("Qwen 0.5B", known.sha256)
    assert f"Qwen 0.5B (SHA-256 {known.sha256[:12]})" in sentence
    assert sentence.endswith(f"Run: python app.py models pull {known.name}")
    assert "models pull" not in missing("Qwen 0.5B", "0" * 64)
