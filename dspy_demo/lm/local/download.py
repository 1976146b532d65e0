"""Getting a model file from the hub: resumed where it was left, checked, and put in place whole.

Not by `huggingface_hub`: its download begins anew at each call, and waits long where there is no network.
"""

import asyncio
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
Report = Callable[[int], None]  # gets the bytes that have arrived


def size_text(size_bytes: int) -> str:
    """A file's size: ``491 MB``, ``1.12 GB``."""
    return f"{size_bytes / 1e9:.2f} GB" if size_bytes >= 1e9 else f"{size_bytes / 1e6:.3g} MB"


async def download(model: KnownModel, settings: Settings, report: Report = lambda _: None) -> LocalModel:
    """Get the file of `model` into ``--models-dir``, unless it is there. Cancelling keeps what has arrived.

    It is `DownloadFailed` with the reason, or `Busy` where another process downloads the same model.
    """
    folder, hub = settings.models_dir, settings.hub_url.rstrip("/")
    part = path_of(folder, model.name, ".part")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(path_of(folder, model.name, ".lock"), timeout=0, thread_local=False):
            if files.present(model, folder) is None:
                url = f"{hub}/{quote(f'{model.repo}/resolve/{model.revision}/{model.file}')}"
                await _receive(url, part, model, report)
                await asyncio.to_thread(_put_in_place, part, model)
    except filelock.Timeout:
        raise Busy(f"“{model.name}” is being downloaded by another process on this machine.") from None
    except httpx.HTTPError as error:
        raise DownloadFailed(
            f"The connection to {httpx.URL(hub).host} failed. What has arrived is kept. Check the network, "
            "then go on, or name a mirror with --hub-url."
        ) from error
    except OSError as error:
        text = f"The folder {folder} is full or cannot be written. Choose another with --models-dir."
        raise DownloadFailed(text) from error
    return model.at(path_of(folder, model.name))


async def _receive(url: str, part: Path, model: KnownModel, report: Report) -> None:
    if (start := size_of(part)) >= model.size_bytes:
        return
    headers = {"Accept-Encoding": "identity", "Range": f"bytes={start}-"}
    async with (
        httpx.AsyncClient(timeout=httpx.Timeout(SILENCE_S, connect=5.0)) as client,
        client.stream("GET", url, headers=headers, follow_redirects=True) as reply,
    ):
        received = start if reply.status_code == 206 else 0  # a server may ignore the range
        length = reply.headers.get("content-length")
        if not reply.is_success or length != str(model.size_bytes - received):
            raise DownloadFailed(
                f"{reply.url.host} does not give {model.file} as expected (HTTP {reply.status_code}). "
                "Another server may be in between: a network that asks for a sign-in, or an old mirror."
            )
        with part.open("ab" if received else "wb") as file:
            async for piece in reply.aiter_raw():
                await asyncio.to_thread(file.write, piece)  # a slow disk must not hold up the chats
                received += len(piece)
                report(received)


def _put_in_place(part: Path, model: KnownModel) -> None:
    """Compare the checksum first; a wrong file is removed, since nothing can be done with it."""
    if LocalModel(model.name, part).identified().sha256 != model.sha256:
        part.unlink()
        text = f"The {model.file} that came has another checksum than the publisher's, so it was removed."
        raise DownloadFailed(f"{text} Try again, from another network or mirror.")
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


class Downloads:
    """The one download of an app, a task beside the page: whoever looks sees the same progress."""

    def __init__(self, settings: Settings) -> None:
        self._settings, self._reasons = settings, dict[str, str]()
        self._task: asyncio.Task[None] | None = None
        self._running: DownloadState | None = None

    @property
    def busy(self) -> bool:
        return self._running is not None

    def states(self) -> list[DownloadState]:
        """Every known model; one of a package only where that is installed. Reads folders: use a thread."""
        states = [self._state(model) for model in files.KNOWN]
        return [state for state in states if state.phase == "here" or not state.model.package]

    def _state(self, model: KnownModel) -> DownloadState:
        folder = self._settings.models_dir
        if (running := self._running) and running.model == model:
            return running
        if files.present(model, folder):
            return DownloadState(model, "here")
        received = size_of(path_of(folder, model.name, ".part"))
        reason = self._reasons.get(model.name, "")
        return DownloadState(model, "partial" if received else "absent", received, reason)

    def start(self, name: str) -> None:
        """Begin to download a model, or go on with it; `Busy` while one is on its way."""
        model = files.downloadable(name)
        if self.busy:
            raise Busy("A model is being downloaded. Wait for it, or cancel it first.")
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
