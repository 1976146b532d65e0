"""Getting a model file from the hub: resumed where it was left, checked, and put in place whole.

A file is at ``HUB/REPO/resolve/REVISION/FILE``, which answers with a redirect to where it is stored.
Not by `huggingface_hub`: its download begins anew at each call, and waits long where there is no network.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import logging
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal
from urllib.parse import quote

import httpx

from dspy_demo.errors import Busy, DemoError, DownloadFailed
from dspy_demo.lm.local import files
from dspy_demo.lm.local.files import KnownModel, LocalModel, path_of, size_of
from dspy_demo.logs import log_failure
from dspy_demo.settings import Settings

log = logging.getLogger(__name__)

#: Seconds for a connection, and without a byte.
CONNECT_S, SILENCE_S = 5.0, 30.0
#: Left free on the disk beside the model.
SPARE_BYTES = 64_000_000
OTHER_FOLDER = "Make room, or choose another folder with --models-dir."
#: Why a hub refuses, by the status of its reply.
REFUSALS = {401: "does not give it without an account", 403: "does not give it without an account"}
REFUSALS |= {404: "has no such file at the expected commit"}


@dataclass(frozen=True, slots=True)
class Progress:
    """One look at a download. `bytes_per_s` is that since it was started or resumed; None where unknown."""

    phase: Literal["connecting", "downloading", "checking"]
    received_bytes: int
    total_bytes: int
    bytes_per_s: float | None = None

    @property
    def percent(self) -> int:
        return int(100 * self.received_bytes / self.total_bytes)  # 100 is for what is complete

    @property
    def words(self) -> list[str]:
        """``206 MB of 491 MB``, ``5.2 MB/s``, ``55 s left``; the last two as soon as they can be told."""
        words = [f"{size_text(self.received_bytes)} of {size_text(self.total_bytes)}"]
        if self.bytes_per_s:
            left_s = (self.total_bytes - self.received_bytes) / self.bytes_per_s
            words.append(f"{self.bytes_per_s / 1e6:.1f} MB/s")
            words.append(f"{left_s:.0f} s left" if left_s < 100 else f"{left_s / 60:.0f} min left")
        return words


Report = Callable[[Progress], None]


def size_text(size_bytes: int) -> str:
    """A file's size: ``491 MB``, ``1.12 GB``."""
    return f"{size_bytes / 1e9:.2f} GB" if size_bytes >= 1e9 else f"{size_bytes / 1e6:.3g} MB"


async def download(model: KnownModel, settings: Settings, report: Report = lambda _: None) -> LocalModel:
    """Get the file of `model` into ``--models-dir``, unless it is there. Cancelling keeps what has arrived.

    Args:
        report: Called at each phase and with each piece that arrives.

    Raises:
        DownloadFailed: It did not work; the sentence says why, and whether the next try goes on.
        Busy: Another process downloads the same model into the same folder.
    """
    folder = settings.models_dir
    with _faults(settings.hub_url, folder), files.locked(folder, model.name):
        if here := files.present(model, folder):
            return here
        part = path_of(folder, model.name, ".part")
        if size_of(part) > model.size_bytes:  # of another version of the app, which knows another file
            part.unlink()
        if size_of(part) < model.size_bytes:
            report(Progress("connecting", size_of(part), model.size_bytes))
            _check_space(part, model)
            place = quote(f"{model.repo}/resolve/{model.revision}/{model.file}")
            await _receive(f"{settings.hub_url.rstrip('/')}/{place}", part, model, report)
        report(Progress("checking", model.size_bytes, model.size_bytes))
        await asyncio.to_thread(_check, part, model)
        part.replace(path_of(folder, model.name))
    here = files.present(model, folder)
    assert here is not None
    return here


@contextmanager
def _faults(hub_url: str, folder: Path) -> Iterator[None]:
    """What the network and the disk say, as a sentence."""
    host, kept = httpx.URL(hub_url).host, "What has arrived is kept, and the next try goes on from there."
    try:
        yield
    except (httpx.HTTPError, OSError) as error:
        match error:
            case httpx.ConnectError() | httpx.ConnectTimeout():
                sentence = f"{host} cannot be reached. Check the network, or name a mirror with --hub-url."
            case httpx.ReadTimeout():
                sentence = f"{host} has stopped sending. {kept}"
            case httpx.TransportError():
                sentence = f"The connection to {host} broke. {kept}"
            case httpx.HTTPError():
                sentence = f"{host} does not give the file."
            case _:
                full = error.errno in {errno.ENOSPC, errno.EDQUOT}
                sentence = f"The folder {folder} {'is full' if full else 'cannot be written'}. {OTHER_FOLDER}"
        raise DownloadFailed(sentence) from error


def _check_space(part: Path, model: KnownModel) -> None:
    missing = model.size_bytes - size_of(part) + SPARE_BYTES
    free = shutil.disk_usage(part.parent).free
    if free < missing:
        raise DownloadFailed(
            f"{model.title} needs {size_text(missing)} of disk in {part.parent}, and only {size_text(free)} "
            f"are free. {OTHER_FOLDER}"
        )


async def _receive(url: str, part: Path, model: KnownModel, report: Report) -> None:
    """Append what one connection brings."""
    start, size = size_of(part), model.size_bytes
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    async with (
        httpx.AsyncClient(timeout=httpx.Timeout(SILENCE_S, connect=CONNECT_S)) as client,
        client.stream("GET", url, headers=headers, follow_redirects=True) as reply,
    ):
        _check_reply(reply, model)
        received = start = start if reply.status_code == 206 else 0  # a server may ignore the range
        began = time.monotonic()
        with part.open("ab" if start else "wb") as file:
            async for piece in reply.aiter_raw():
                not_gguf = received == 0 and piece[:4] != b"GGUF"[: len(piece)]
                if not_gguf or received + len(piece) > size:
                    raise _wrong_file(reply, model)
                await asyncio.to_thread(file.write, piece)  # a slow disk must not hold up the chats
                received += len(piece)
                took_s = time.monotonic() - began
                speed = (received - start) / took_s if took_s > 0.5 else None
                report(Progress("downloading", received, size, speed))
    if received < size:
        raise httpx.RemoteProtocolError("the server closed the connection before the end")


def _check_reply(reply: httpx.Response, model: KnownModel) -> None:
    """Refuse what is not the file."""
    total = reply.headers.get("content-range", "").rpartition("/")[2] or "*"
    if reply.status_code == 416 or total not in {"*", str(model.size_bytes)}:
        raise _wrong_file(reply, model)
    if reply.status_code >= 400:
        reason = REFUSALS.get(reply.status_code, "cannot give it now; try again later")
        raise DownloadFailed(f"{model.file}: {reply.url.host} {reason} (HTTP {reply.status_code}).")


def _wrong_file(reply: httpx.Response, model: KnownModel) -> DownloadFailed:
    return DownloadFailed(
        f"{reply.url.host} does not give the expected {model.file}. A network that asks for a sign-in, or a "
        "mirror that is not up to date, may be in between."
    )


def _check(part: Path, model: KnownModel) -> None:
    """Compare the checksum; a wrong file is removed, since nothing can be done with it."""
    with part.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != model.sha256:
        part.unlink()
        raise DownloadFailed(
            f"The {model.file} that came has another checksum than the publisher's, so it was removed. "
            "Try again; if that happens again, do not trust this network or mirror."
        )


@dataclass(frozen=True, slots=True)
class DownloadState:
    """What a known model is on this machine now.

    Attributes:
        phase: ``partial`` is what a stopped or failed download has left.
        progress: While it is running, and for what is partial.
        reason: Why the last try failed, as a sentence.
    """

    model: KnownModel
    phase: Literal["absent", "partial", "running", "here"]
    progress: Progress | None = None
    reason: str = ""


class Downloads:
    """The one download of an app, a task beside the page: whoever looks sees the same progress."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._task: asyncio.Task[None] | None = None
        self._running: DownloadState | None = None
        self._reasons: dict[str, str] = {}

    @property
    def busy(self) -> bool:
        return self._task is not None and not self._task.done()

    def states(self) -> list[DownloadState]:
        """Every known model in its state now; one of a package only where that is installed.

        Reads folders: call it in a thread.
        """
        here = {model.sha256 for model, _ in files.offered(self._settings)}
        known = [model for model in files.KNOWN if not model.package or model.sha256 in here]
        return [self._state(model, model.sha256 in here) for model in known]

    def start(self, name: str) -> None:
        """Begin to download a model, or go on with it.

        Raises:
            ModelSetupError: There is no such model.
            Busy: Another one is on its way.
        """
        model = files.downloadable(name)
        if self.busy:
            if self._running is not None and self._running.model.name == name:
                return
            raise Busy("Another model is being downloaded. Wait for it, or cancel it first.")
        self._reasons.pop(name, None)
        self._running = DownloadState(model, "running", Progress("connecting", 0, model.size_bytes))
        self._task = asyncio.create_task(self._run(model), name="model-download")

    async def cancel(self) -> None:
        """Stop the running download; what has arrived is kept."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _run(self, model: KnownModel) -> None:
        try:
            await download(model, self._settings, self._report)
        except Exception as error:
            failure = DemoError.of(error)
            log_failure(log, "the download failed", failure, model=model.name)
            self._reasons[model.name] = failure.public_message
        finally:
            self._running = None

    def _report(self, progress: Progress) -> None:
        if self._running is not None:
            self._running = replace(self._running, progress=progress)

    def _state(self, model: KnownModel, here: bool) -> DownloadState:
        running, reason = self._running, self._reasons.get(model.name, "")
        if running is not None and running.model.name == model.name:
            return running
        part = size_of(path_of(self._settings.models_dir, model.name, ".part"))
        if here or not part:
            return DownloadState(model, "here" if here else "absent", reason="" if here else reason)
        return DownloadState(model, "partial", Progress("downloading", part, model.size_bytes), reason)
