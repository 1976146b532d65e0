"""From a model string to a file, and the files that can be offered."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

from dspy_demo.errors import ModelSetupError
from dspy_demo.lm.local_models.elsewhere import described, found_elsewhere
from dspy_demo.lm.local_models.folder import downloaded
from dspy_demo.lm.local_models.gguf_header import architecture
from dspy_demo.lm.local_models.known import known_models
from dspy_demo.lm.local_models.model import PREFIX, SUFFIX, LocalModel
from dspy_demo.settings import Settings

#: What `offered` says of a model that this app has downloaded.
DOWNLOADED = "local"


def find(model: str, settings: Settings) -> LocalModel:
    """The file of a model string: ``local/NAME`` of a downloaded model, ``local/PATH.gguf`` of any file.

    A path may be relative or begin with ``~``. A name is also found in the Hugging Face cache, where the file
    with its checksum lies there.

    Raises:
        ModelSetupError: There is no such file, or it is not a GGUF; the sentence says what to do.
    """
    name = model.removeprefix(PREFIX)
    if name.lower().endswith(SUFFIX):
        path = Path(name).expanduser().absolute()
        architecture(path)
        return described(path)
    for candidate in downloaded(settings.models_dir):
        if candidate.name == name:
            architecture(candidate.path)
            return candidate
    known = next((known for known in known_models() if known.name == name), None)
    if known is None:
        names = ", ".join(PREFIX + known.name for known in known_models())
        raise ModelSetupError(
            f"“{model[:80]}” is no model on this machine. Name a file as local/PATH.gguf, or one of {names}."
        )
    for _, candidate in found_elsewhere(settings):
        if candidate.sha256 == known.sha256:
            return replace(candidate, name=known.name, title=known.title, licence=known.licence)
    raise ModelSetupError(
        f"{known.title} has not been downloaded. Run: python app.py models pull {known.name}"
    )


def offered(settings: Settings) -> list[tuple[LocalModel, str]]:
    """The model files on this machine, each with where it is: downloaded ones first, each file once."""
    found = [(model, DOWNLOADED) for model in downloaded(settings.models_dir)]
    found += [(model, program) for program, model in found_elsewhere(settings)]
    once: list[tuple[LocalModel, str]] = []
    seen: set[str] = set()
    for model, where in found:
        same = {str(model.path.resolve()), model.sha256} - {""}
        if not same & seen:
            once.append((model, where))
        seen |= same
    return once


def checksum(model: LocalModel) -> str:
    """The SHA-256 of a model file. Where it is not known the whole file is read, for seconds a gigabyte."""
    if model.sha256:
        return model.sha256
    with model.path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
