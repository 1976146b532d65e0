"""Model files that other programs have put on this machine, where each of them keeps its own."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from dspy_demo.errors import DemoError
from dspy_demo.lm.local_models.gguf_header import NOT_CHATTING, architecture
from dspy_demo.lm.local_models.model import LocalModel
from dspy_demo.settings import Settings

#: Program, its folder below the home folder, and where in it the files are. On Linux, macOS and Windows.
CACHES: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("LM Studio", ".lmstudio/models", ("*/*/*.gguf",)),
    ("LM Studio", ".cache/lm-studio/models", ("*/*/*.gguf",)),
    ("llama.cpp", ".cache/llama.cpp", ("*.gguf",)),
    ("llama.cpp", "Library/Caches/llama.cpp", ("*.gguf",)),
    ("llama.cpp", "AppData/Local/llama.cpp", ("*.gguf",)),
    ("GPT4All", ".local/share/nomic.ai/GPT4All", ("*.gguf",)),
    ("GPT4All", "Library/Application Support/nomic.ai/GPT4All", ("*.gguf",)),
    ("GPT4All", "AppData/Local/nomic.ai/GPT4All", ("*.gguf",)),
    ("Jan", ".local/share/Jan/data/llamacpp/models", ("*/*.gguf", "*/*/*.gguf")),
    ("Jan", "Library/Application Support/Jan/data/llamacpp/models", ("*/*.gguf", "*/*/*.gguf")),
    ("Jan", "AppData/Roaming/Jan/data/llamacpp/models", ("*/*.gguf", "*/*/*.gguf")),
)
_HUB = "Hugging Face"
#: HF_HOME has the cache in `hub`, HF_HUB_CACHE is the cache itself.
_HUB_FILES = tuple(
    f"{below}models--*/snapshots/*/{deeper}*.gguf" for below in ("", "hub/") for deeper in ("", "*/")
)
_HUB_PATH = re.compile(r"models--(?P<owner>[^/]+?)--(?P<repo>[^/]+)/snapshots/(?P<revision>[0-9a-f]{40})/")
_SHA256 = re.compile(r"[0-9a-f]{64}")
#: Of a model in several files the first one is named, and the others are found by it.
_LATER_FILE = re.compile(r"-(?!00001)\d{5}-of-\d{5}\.gguf$", re.IGNORECASE)


def found_elsewhere(settings: Settings) -> Iterator[tuple[str, LocalModel]]:
    """The chat models of other programs, each with the program's name; some lie in two places."""
    places = [(_HUB, settings.hub_cache_dir, _HUB_FILES)]
    places += [(program, Path.home() / folder, files) for program, folder, files in CACHES]
    if settings.gguf_dir:
        places.append((str(settings.gguf_dir), settings.gguf_dir, ("*.gguf", "*/*.gguf")))
    for program, folder, patterns in places:
        for pattern in patterns:
            for path in sorted(folder.glob(pattern)):
                if _chats(path):
                    yield program, described(path)


def described(path: Path) -> LocalModel:
    """A model file as its path describes it: the Hugging Face cache tells repository, commit, checksum."""
    repo = revision = sha256 = ""
    place = _HUB_PATH.search(path.as_posix())
    if place:
        repo, revision = f"{place['owner']}/{place['repo']}", place["revision"]
        blob = path.resolve().name  # large files are stored under their checksum
        sha256 = blob if _SHA256.fullmatch(blob) else ""
    return LocalModel(str(path), path, repo, revision, sha256, path.stat().st_size, path.stem)


def _chats(path: Path) -> bool:
    if _LATER_FILE.search(path.name):
        return False
    try:
        return architecture(path) not in NOT_CHATTING and not path.name.lower().startswith("mmproj")
    except DemoError:
        return False  # an unfinished download, a link to nothing
