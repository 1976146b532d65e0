"""The folder of downloaded models (``--models-dir``): each a file with a record beside it.

    NAME.gguf         the model, complete: it is put there whole, after its checksum was compared
    NAME.json         where it comes from
    NAME.gguf.part    what has arrived of a download
    NAME.gguf.lock    held by the process that downloads it

The records make the folder speak for itself: every version of the app lists what any of them has downloaded.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import filelock

from dspy_demo.errors import Busy, ModelSetupError
from dspy_demo.lm.local_models.known import KnownModel
from dspy_demo.lm.local_models.model import SUFFIX, LocalModel


def file_of(folder: Path, name: str) -> Path:
    return folder / (name + SUFFIX)


def part_of(folder: Path, name: str) -> Path:
    return folder / (name + SUFFIX + ".part")


def lock_of(folder: Path, name: str) -> Path:
    return folder / (name + SUFFIX + ".lock")


def record_of(folder: Path, name: str) -> Path:
    return folder / (name + ".json")


def downloaded(folder: Path) -> Iterator[LocalModel]:
    """The complete models of the folder, by name. One whose file is gone or of another length is none."""
    for record in sorted(folder.glob("*.json")):
        model = _read(record)
        if model is not None and _size(model.path) == model.size_bytes:
            yield model


def keep(folder: Path, model: KnownModel, checked: Path) -> LocalModel:
    """Put a file whose checksum was compared in its place, in one step, with its record."""
    path = file_of(folder, model.name)
    record = {name: value for name, value in asdict(model).items() if name != "note"}
    draft = record_of(folder, model.name).with_suffix(".json.new")
    draft.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    draft.replace(record_of(folder, model.name))  # first: a record without its file is no model
    checked.replace(path)
    return _model(record, path)


@contextmanager
def locked(folder: Path, name: str) -> Iterator[None]:
    """Hold the model of this name against other processes.

    Raises:
        Busy: Another one holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(lock_of(folder, name), timeout=0, thread_local=False)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise Busy(f"“{name}” is being downloaded by another process on this machine.") from None
    try:
        yield
    finally:
        lock.release()


def remove(folder: Path, name: str) -> int:
    """Delete a model, its record and what a download left of it; how many bytes that freed.

    Raises:
        ModelSetupError: The folder has nothing of that name, or it cannot be deleted.
        Busy: It is being downloaded.
    """
    files = [at(folder, name) for at in (record_of, file_of, part_of)]
    freed = sum(_size(file) or 0 for file in files)
    if Path(name).name != name or not freed:
        raise ModelSetupError(f"There is no model “{name[:80]}” in {folder}.")
    try:
        with locked(folder, name):
            for file in files:
                file.unlink(missing_ok=True)
    except OSError as error:
        raise ModelSetupError(f"The files of “{name}” in {folder} cannot be deleted.") from error
    return freed


def _read(record: Path) -> LocalModel | None:
    try:
        return _model(json.loads(record.read_text(encoding="utf-8")), record.with_name(record.stem + SUFFIX))
    except (OSError, ValueError, KeyError, TypeError):
        return None  # not a record of ours


def _model(record: dict[str, object], path: Path) -> LocalModel:
    texts = {key: str(record[key]) for key in ("repo", "revision", "sha256", "title", "licence")}
    return LocalModel(path.stem, path, size_bytes=int(str(record["size_bytes"])), **texts)


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None
