"""Getting a model file from the hub: resumed where it was left, checked, and put in place whole.

Not by `huggingface_hub`: its download cannot be stopped, shows its progress on terminals only, compares no
checksum, and is silent for 23 to 100 s where there is no network (1.33).
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from dspy_demo.errors import DownloadFailed
from dspy_demo.lm.local_models import folder as files
from dspy_demo.lm.local_models.amounts import size_text
from dspy_demo.lm.local_models.hub import host_of, probe, url_of
from dspy_demo.lm.local_models.known import KnownModel
from dspy_demo.lm.local_models.model import LocalModel
from dspy_demo.lm.local_models.progress import Progress
from dspy_demo.lm.local_models.transfer import KEPT, Patience, Report, Transfer, size_of
from dspy_demo.settings import Settings

#: Left free on the disk beside the model.
SPARE_BYTES = 64_000_000
PATIENCE = Patience()
_FULL = {errno.ENOSPC, errno.EDQUOT}


async def download(
    model: KnownModel, settings: Settings, report: Report = lambda _: None, patience: Patience = PATIENCE
) -> LocalModel:
    """Get the file of `model` into ``--models-dir``, unless it is there. Cancelling keeps what has arrived.

    Args:
        report: Called at each phase and with each piece that arrives.

    Raises:
        DownloadFailed: It did not work; the sentence says why, and whether the next try goes on.
        Busy: Another process downloads the same model into the same folder.
    """
    folder = settings.models_dir
    with _disk_faults(folder), files.locked(folder, model.name):
        for here in files.downloaded(folder):
            if (here.name, here.sha256) == (model.name, model.sha256):
                return here
        url, part = url_of(settings.hub_url, model), files.part_of(folder, model.name)
        if size_of(part) > model.size_bytes:  # of another version of the app, which knows another file
            await asyncio.to_thread(part.unlink)
        if size_of(part) < model.size_bytes:
            report(Progress("connecting", size_of(part), model.size_bytes))
            async with httpx.AsyncClient(timeout=patience.timeout) as client:
                await probe(client, url, model, patience.probe_s)
                _check_space(part, model)
                await Transfer(client, url, part, model, report, patience).run()
        report(Progress("checking", model.size_bytes, model.size_bytes))
        await asyncio.to_thread(_check, url, part, model)
        return files.keep(folder, model, part)


def _check(url: str, part: Path, model: KnownModel) -> None:
    """Compare the checksum; a wrong file is removed, since nothing can be done with it."""
    with part.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != model.sha256:
        part.unlink()
        raise DownloadFailed(
            f"What {host_of(url)} sent has another checksum than the publisher's file, so it was removed. "
            "Try again; if that happens again, do not trust this network or mirror."
        )


def _check_space(part: Path, model: KnownModel) -> None:
    missing = model.size_bytes - size_of(part) + SPARE_BYTES
    free = shutil.disk_usage(part.parent).free
    if free < missing:
        raise DownloadFailed(
            f"{model.title} needs {size_text(missing)} of disk in {part.parent}, and only {size_text(free)} "
            "are free. Make room, or choose another folder with --models-dir."
        )


@contextmanager
def _disk_faults(folder: Path) -> Iterator[None]:
    """What the disk says, as a sentence."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise DownloadFailed(f"The disk of {folder} is full. Make room and try again. {KEPT}") from error
        raise DownloadFailed(
            f"The folder {folder} cannot be written. Choose another one with --models-dir."
        ) from error
