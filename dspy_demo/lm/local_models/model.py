"""A model file on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

#: What the model strings of files on this machine begin with.
PREFIX = "local/"
SUFFIX = ".gguf"


@dataclass(frozen=True, slots=True)
class LocalModel:
    """A GGUF file, and what is known of it; unknown is empty.

    Attributes:
        name: What comes after ``local/``: the name of a downloaded model, or the path of any other file.
        path: The file itself.
        repo: Repository on the hub that it comes from, for example ``Qwen/Qwen2.5-0.5B-Instruct-GGUF``.
        revision: The repository's commit.
        sha256: Of the whole file, 64 hex digits. Compared when the file was downloaded; of other files what
            the Hugging Face cache says, or empty: then `checksum` reads the file.
        size_bytes: Length of the file.
        title: For people.
        licence: As an SPDX identifier.
    """

    name: str
    path: Path
    repo: str = ""
    revision: str = ""
    sha256: str = ""
    size_bytes: int = 0
    title: str = ""
    licence: str = ""

    @property
    def model(self) -> str:
        """The model string, as ``--lm`` takes it."""
        return PREFIX + self.name
