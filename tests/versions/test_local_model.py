"""A version on a model file finds that file again by its checksum; `tests/serving` logs and serves one."""

from __future__ import annotations

from pathlib import Path

import pytest

from dspy_demo.errors import ModelSetupError
from dspy_demo.lm.local.files import KNOWN, find, missing, record, the_same
from dspy_demo.settings import Settings
from tests.tiny_gguf import write_tiny_gguf


def test_the_same_file_is_found_under_any_name_and_no_other(tmp_path: Path, home: Path) -> None:
    settings = Settings(data_dir=tmp_path, models_dir=tmp_path / "m")
    tiny = write_tiny_gguf(tmp_path / "tiny.gguf")
    noted = record(find(f"local/{tiny}", settings).identified())
    assert the_same(noted, settings).path == tiny
    with pytest.raises(ModelSetupError, match=r"SHA-256 0{12}.*not on this machine"):
        the_same(noted | {"sha256": "0" * 64}, settings)
    repo = home / ".cache/huggingface/hub/models--owner--repo"
    snapshot, blob = repo / "snapshots" / ("a" * 40), repo / "blobs" / noted["sha256"]
    for folder in (snapshot, blob.parent):
        folder.mkdir(parents=True)
    blob.write_bytes(tiny.read_bytes())
    (snapshot / "renamed.gguf").symlink_to(blob)
    assert the_same(noted | {"name": "/nowhere/tiny.gguf"}, settings).path == snapshot / "renamed.gguf"
    assert missing("Qwen", KNOWN[0].sha256).endswith(f"Run: python app.py models pull {KNOWN[0].name}")
