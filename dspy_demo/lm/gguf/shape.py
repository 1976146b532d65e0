"""The sizes of a model: how much memory it needs, and how much there is.

A GGUF file begins with metadata (ggml's docs/gguf.md): key, type, value, little-endian. The sizes that matter
come before the vocabulary, which is long, so reading stops there.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from dspy_demo.errors import ModelSetupError

#: What the runtime takes beside weights and context: buffers for a batch, the vocabulary.
OVERHEAD_BYTES = 150 * 2**20
#: Where finished chats are kept, so that the next turn of each need not read its history again.
KEPT_CHATS_MIB = 256
_CACHE_VALUE_BYTES = 2  # half precision, for a key and for a value
_FIXED = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9


@dataclass(frozen=True, slots=True)
class Shape:
    """What a model file says of itself; 0 is unknown.

    Attributes:
        context_tokens: The longest context that the model was trained for.
        cache_bytes_per_token: What one token of the context takes in memory.
        file_bytes: Its length: the weights.
    """

    context_tokens: int
    cache_bytes_per_token: int
    file_bytes: int

    def needed_bytes(self, context_tokens: int) -> int:
        """About what the model takes with a context of so many tokens."""
        context = self.cache_bytes_per_token * context_tokens
        return self.file_bytes + context + OVERHEAD_BYTES + KEPT_CHATS_MIB * 2**20


def read_shape(path: Path) -> Shape:
    """The sizes of a model file.

    Raises:
        ModelSetupError: It cannot be read, or it is not a GGUF file.
    """
    try:
        with path.open("rb") as file:
            metadata = dict(_metadata(file))
        file_bytes = path.stat().st_size
    except FileNotFoundError:
        raise ModelSetupError(f"There is no model file {path}.") from None
    except (OSError, struct.error, UnicodeDecodeError) as error:
        raise ModelSetupError(f"The model file {path} cannot be read, or is damaged.") from error
    kind = metadata.get("general.architecture", "")

    def number(name: str) -> int:
        value = metadata.get(f"{kind}.{name}", 0)
        return value if isinstance(value, int) else 0

    heads = number("attention.head_count")
    width = number("embedding_length") // heads if heads else 0
    key, value = number("attention.key_length") or width, number("attention.value_length") or width
    cache_heads = number("attention.head_count_kv") or heads
    per_token = number("block_count") * cache_heads * (key + value) * _CACHE_VALUE_BYTES
    return Shape(number("context_length"), per_token, file_bytes)


def free_bytes() -> int | None:
    """Memory that can be used now without swapping; None where the system does not say (not Linux)."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    available = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")), None)
    limit = _container_free_bytes()
    return min((size for size in (available, limit) if size is not None), default=None)


def _container_free_bytes() -> int | None:
    """What a container's limit leaves (cgroup v2); None without a limit."""
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = ((group / name).read_text().strip() for name in ("memory.max", "memory.current"))
        return None if limit == "max" else max(0, int(limit) - int(used))
    except (OSError, ValueError):
        return None


def gigabytes(size: int) -> str:
    """A size for people, in units of a thousand million bytes."""
    return f"{size / 1e9:.1f} GB"


def default_threads() -> int:
    """All cores but one, which the page and the other chats need."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores - 1)


def _metadata(file: BinaryIO) -> Iterator[tuple[str, Any]]:
    magic, _, _, count = struct.unpack("<4sIQQ", file.read(24))
    if magic != b"GGUF":
        raise struct.error("no GGUF")
    for _ in range(count):
        key = _text(file)
        if key.startswith("tokenizer."):
            return
        yield key, _value(file, struct.unpack("<I", file.read(4))[0])


def _value(file: BinaryIO, kind: int) -> Any:
    if kind == _STRING:
        return _text(file)
    if kind == _ARRAY:
        inner, count = struct.unpack("<IQ", file.read(12))
        values = [_value(file, inner) for _ in range(count)]
        # Layers that differ: the largest stands for all.
        return max(values) if values and isinstance(values[0], int) else values
    if kind not in _FIXED:
        raise struct.error("unknown kind of value")
    form = "<" + _FIXED[kind]
    return struct.unpack(form, file.read(struct.calcsize(form)))[0]


def _text(file: BinaryIO) -> str:
    length = struct.unpack("<Q", file.read(8))[0]
    if length > 1 << 24:
        raise struct.error("a text of impossible length")
    return file.read(length).decode()
