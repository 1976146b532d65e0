"""Getting a model file from the hub: resumed where it was left, checked, and put in place whole.

Not by `huggingface_hub`: its download begins anew at each call, and waits long where there is no network.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import quote

import filelock
import httpx

from dspy_demo.errors import Busy, DemoError, DownloadFailed
from dspy_demo.lm.local import files
from dspy_demo.lm.local.files import KnownModel, LocalModel, path_of, size_of
from dspy_demo.logs import log_failure
from dspy_demo.settings import Settings

log = logging.getLogger(__name__)

#: Seconds without a byte.
SILENCE_S = 30.0
#: Gets the bytes that have arrived.
Report = Callable[[int], None]


def size_text(size_bytes: int) -> str:
    """A file's size: ``491 MB``, ``1.12 GB``."""
    return f"{size_bytes / 1e9:.2f} GB" if size_bytes >= 1e9 else f"{size_bytes / 1e6:.3g} MB"


async def download(model: KnownModel, settings: Settings, report: Report = lambda _: None) -> LocalModel:
    """Get the file of `model` into ``--models-dir``, unless it is there. Cancelling keeps what has arrived.

    It is `DownloadFailed` with the reason, or `Busy` where another process downloads the same model.
    """
    folder, host = settings.models_dir, httpx.URL(settings.hub_url).host
    part, lock = path_of(folder, model.name, ".part"), path_of(folder, model.name, ".lock")
    place = quote(f"{model.repo}/resolve/{model.revision}/{model.file}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(lock, timeout=0, thread_local=False):
            if files.present(model, folder) is None:
                if size_of(part) != model.size_bytes:
                    await _receive(f"{settings.hub_url.rstrip('/')}/{place}", part, model, report)
                await asyncio.to_thread(_put_in_place, part, model)
    except filelock.Timeout:
        raise Busy(f"“{model.name}” is being downloaded by another process on this machine.") from None
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        text = f"{host} cannot be reached. Check the network, or name a mirror with --hub-url."
        raise DownloadFailed(text) from error
    except httpx.HTTPError as error:
        text = f"The connection to {host} broke. What has arrived is kept, and the next try goes on there."
        raise DownloadFailed(text) from error
    except OSError as error:
        text = f"The folder {folder} is full or cannot be written. Choose another with --models-dir."
        raise DownloadFailed(text) from error
    return model.at(path_of(folder, model.name))


async def _receive(url: str, part: Path, model: KnownModel, report: Report) -> None:
    start, size = size_of(part), model.size_bytes
    start = start if start < size else 0  # of another version of the app, which knows another file
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    async with (
        httpx.AsyncClient(timeout=httpx.Timeout(SILENCE_S, connect=5.0)) as client,
        client.stream("GET", url, headers=headers, follow_redirects=True) as reply,
    ):
        status, total = reply.status_code, reply.headers.get("content-range", "").rpartition("/")[2]
        wrong = DownloadFailed(
            f"{reply.url.host} does not give {model.file} as expected (HTTP {status}). A network that asks "
            "for a sign-in, or a mirror that is not up to date, may be in between; or try again later."
        )
        if status >= 400 or total not in {"", "*", str(size)}:
            raise wrong
        received = start if status == 206 else 0  # a server may ignore the range
        with part.open("ab" if received else "wb") as file:
            async for piece in reply.aiter_raw():
                not_gguf = received == 0 and piece[:4] != b"GGUF"[: len(piece)]
                if not_gguf or received + len(piece) > size:
                    raise wrong
                await asyncio.to_thread(file.write, piece)  # a slow disk must not hold up the chats
                received += len(piece)
                report(received)
    if received < size:
        raise httpx.RemoteProtocolError("the server closed the connection before the end")


def _put_in_place(part: Path, model: KnownModel) -> None:
    """Compare the checksum first; a wrong file is removed, since nothing can be done with it."""
    with part.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != model.sha256:
        part.unlink()
        raise DownloadFailed(
            f"The {model.file} that came has another checksum than the publisher's, so it was removed. "
            "Try again; if that happens again, do not trust this network or mirror."
        )
    part.replace(part.with_suffix(""))


@dataclass(frozen=True, slots=True)
class DownloadState:
    """What a known model is on this machine; ``partial`` is what a failed or stopped download left."""

    model: KnownModel
    phase: Literal["absent", "partial", "running", "here"]
    received_bytes: int = 0
    reason: str = ""

    @property
    def percent(self) -> int:
        return int(100 * self.received_bytes / self.model.size_bytes)  # 100 is for what is complete

    @property
    def received_text(self) -> str:
        return f"{size_text(self.received_bytes)} of {size_text(self.model.size_bytes)}"


class Downloads:
    """The one download of an app, a task beside the page: whoever looks sees the same progress."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._task: asyncio.Task[None] | None = None
        self._running: DownloadState | None = None
        self._reasons: dict[str, str] = {}

    @property
    def busy(self) -> bool:
        return self._running is not None

    def states(self) -> list[DownloadState]:
        """Every known model; one of a package only where that is installed. Reads folders: use a thread."""
        here = {model.sha256 for model, _ in files.offered(self._settings)}
        return [
            self._state(model, model.sha256 in here)
            for model in files.KNOWN
            if not model.package or model.sha256 in here
        ]

    def _state(self, model: KnownModel, here: bool) -> DownloadState:
        if (running := self._running) and running.model == model:
            return running
        if here:
            return DownloadState(model, "here")
        received = size_of(path_of(self._settings.models_dir, model.name, ".part"))
        reason = self._reasons.get(model.name, "")
        return DownloadState(model, "partial" if received else "absent", received, reason)

    def start(self, name: str) -> None:
        """Begin to download a model, or go on with it; `Busy` while another one is on its way."""
        model = files.downloadable(name)
        if self._running is not None:
            if self._running.model == model:
                return
            raise Busy("Another model is being downloaded. Wait for it, or cancel it first.")
        self._reasons.pop(name, None)
        self._running = DownloadState(model, "running")
        self._task = asyncio.create_task(self._run(model), name="model-download")

    async def cancel(self) -> None:
        """Stop the running download; what has arrived is kept."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _run(self, model: KnownModel) -> None:
        def report(received_bytes: int) -> None:
            self._running = DownloadState(model, "running", received_bytes)

        try:
            await download(model, self._settings, report)
        except Exception as error:
            failure = DemoError.of(error)
            log_failure(log, "the download failed", failure, model=model.name)
            self._reasons[model.name] = failure.public_message
        finally:
            self._running = None
