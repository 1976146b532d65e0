"""The first bytes of a model file: whether it is one, and of which kind.

The format begins with ``GGUF``, a version (u32), the counts of tensors and of metadata (u64), then the
metadata as key, type and value, little-endian (ggml's docs/gguf.md). ``general.architecture`` comes first.
"""

from __future__ import annotations

import struct
from pathlib import Path

from dspy_demo.errors import ModelSetupError

_HEADER = struct.Struct("<4sIQQ")
_STRING = 8  # the number of the metadata's type
_LONGEST = 256
#: Architectures that read text or pictures but write nothing: embedding models and parts of other models.
NOT_CHATTING = frozenset(
    {"bert", "nomic-bert", "nomic-bert-moe", "jina-bert-v2", "jina-bert-v3", "modern-bert", "neo-bert"}
    | {"gemma-embedding", "t5encoder", "clip", "mmproj"}
)


def architecture(path: Path) -> str:
    """The architecture that a model file begins with, for example ``qwen2``; empty where that is not first.

    Raises:
        ModelSetupError: There is no such file, it cannot be read, or it is not a GGUF file.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_HEADER.size + 8 + _LONGEST + 4 + 8 + _LONGEST)
    except FileNotFoundError:
        raise ModelSetupError(f"There is no file {path}.") from None
    except OSError as error:
        raise ModelSetupError(
            f"{path} cannot be read. Check that it is a file and that you may read it."
        ) from error
    if len(head) < _HEADER.size or _HEADER.unpack_from(head)[0] != b"GGUF":
        raise ModelSetupError(f"{path} is not a GGUF file, the one format that can be used here.")
    try:
        key, offset = _string(head, _HEADER.size)
        kind = struct.unpack_from("<I", head, offset)[0]
        return _string(head, offset + 4)[0] if key == "general.architecture" and kind == _STRING else ""
    except (struct.error, UnicodeDecodeError):
        return ""


def _string(data: bytes, offset: int) -> tuple[str, int]:
    """A length and so many bytes of text; where what follows begins."""
    length = struct.unpack_from("<Q", data, offset)[0]
    text = struct.unpack_from(f"{min(length, _LONGEST)}s", data, offset + 8)[0]
    return text.decode(), offset + 8 + length
