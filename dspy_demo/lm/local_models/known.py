"""The models that can be downloaded by name, each pinned to one commit and one checksum.

Commit, checksum and length are the publisher's: the LFS pointer of the file at that commit on huggingface.co.
"""

from __future__ import annotations

from dataclasses import dataclass

from dspy_demo.errors import ModelSetupError


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A file on the hub. `note` says in a few words what one gets for its size."""

    name: str
    title: str
    note: str
    repo: str
    revision: str
    file: str
    sha256: str
    size_bytes: int
    licence: str


KNOWN: tuple[KnownModel, ...] = (
    KnownModel(
        name="qwen2.5-0.5b-instruct",
        title="Qwen2.5 0.5B Instruct",
        note="Small and quick, often wrong",
        repo="Qwen/Qwen2.5-0.5B-Instruct-GGUF",
        revision="9217f5db79a29953eb74d5343926648285ec7e67",
        file="qwen2.5-0.5b-instruct-q4_k_m.gguf",
        sha256="74a4da8c9fdbcd15bd1f6d01d621410d31c6fc00986f5eb687824e7b93d7a9db",
        size_bytes=491_400_032,
        licence="Apache-2.0",
    ),
    KnownModel(
        name="qwen2.5-1.5b-instruct",
        title="Qwen2.5 1.5B Instruct",
        note="Better answers, a third of the pace",
        repo="Qwen/Qwen2.5-1.5B-Instruct-GGUF",
        revision="91cad51170dc346986eccefdc2dd33a9da36ead9",
        file="qwen2.5-1.5b-instruct-q4_k_m.gguf",
        sha256="6a1a2eb6d15622bf3c96857206351ba97e1af16c30d7a74ee38970e434e9407e",
        size_bytes=1_117_320_736,
        licence="Apache-2.0",
    ),
)


def known_models() -> tuple[KnownModel, ...]:
    """All of them; the first one is the one to start with."""
    return KNOWN


def known_model(name: str) -> KnownModel:
    """The model of this name.

    Raises:
        ModelSetupError: There is none.
    """
    found = next((model for model in known_models() if model.name == name), None)
    if found is None:
        names = " or ".join(model.name for model in known_models())
        raise ModelSetupError(f"There is no model “{name[:80]}” to download. Choose {names}.")
    return found
