"""What a model file says of its size."""

from __future__ import annotations

from pathlib import Path

import pytest

from dspy_demo.errors import ModelSetupError
from dspy_demo.lm.gguf.shape import default_threads, free_bytes, gigabytes, read_shape
from dspy_demo.lm.local_models import LocalModel
from tests.tiny_gguf import Size, write_tiny_gguf


def test_the_context_takes_what_its_keys_and_values_take(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "m.gguf", Size(width=64, layers=3, heads=4, context=777))
    shape = read_shape(path)
    assert shape.context_tokens == 777 and shape.file_bytes == path.stat().st_size
    heads_kv, width_of_head, key_and_value, half_precision = 2, 16, 2, 2
    assert shape.cache_bytes_per_token == 3 * heads_kv * width_of_head * key_and_value * half_precision
    assert shape.needed_bytes(1000) - shape.needed_bytes(0) == shape.cache_bytes_per_token * 1000


def test_the_vocabulary_is_not_read(tiny: LocalModel, tmp_path: Path) -> None:
    """It is most of a real file's metadata."""
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(tiny.path.read_bytes()[:1000])
    assert read_shape(cut).context_tokens == read_shape(tiny.path).context_tokens


@pytest.mark.parametrize(
    "content", [b"", b"GGUF", b"PK\x03\x04" + bytes(40), b"GGUF\x03\0\0\0" + b"\xff" * 40]
)
def test_what_is_no_model_is_our_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelSetupError):
        read_shape(path)


def test_this_machine() -> None:
    free = free_bytes()
    assert free is None or free > 10_000_000
    assert default_threads() >= 1
    assert gigabytes(491_400_032) == "0.5 GB"
