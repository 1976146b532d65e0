"""The one download of an app: whoever looks sees the same progress, and the app's end stops it."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, replace
from typing import Literal

from dspy_demo.errors import Busy, DemoError
from dspy_demo.lm.local_models import folder as files
from dspy_demo.lm.local_models.download import PATIENCE, download
from dspy_demo.lm.local_models.finding import offered
from dspy_demo.lm.local_models.known import KnownModel, known_model, known_models
from dspy_demo.lm.local_models.progress import Progress
from dspy_demo.lm.local_models.transfer import Patience, size_of
from dspy_demo.logs import log_failure
from dspy_demo.settings import Settings

log = logging.getLogger(__name__)


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
    """Runs one download at a time, as a task of its own beside the page."""

    def __init__(self, settings: Settings, patience: Patience = PATIENCE) -> None:
        self._settings = settings
        self._patience = patience
        self._task: asyncio.Task[None] | None = None
        self._running: DownloadState | None = None
        self._reasons: dict[str, str] = {}

    @property
    def busy(self) -> bool:
        return self._task is not None and not self._task.done()

    def states(self) -> list[DownloadState]:
        """Every model that can be downloaded, in its state now. Reads folders: call it in a thread."""
        here = {model.sha256 for model, _ in offered(self._settings)}
        return [self._state(model, model.sha256 in here) for model in known_models()]

    def start(self, name: str) -> None:
        """Begin to download a model, or go on with it.

        Raises:
            ModelSetupError: There is no such model.
            Busy: Another one is on its way.
        """
        model = known_model(name)
        if self.busy:
            if self._running is not None and self._running.model.name == name:
                return
            raise Busy("Another model is being downloaded. Wait for it, or cancel it first.")
        self._reasons.pop(name, None)
        progress = Progress("connecting", 0, model.size_bytes)
        self._running = DownloadState(model, "running", progress)
        self._task = asyncio.create_task(self._run(model), name="model-download")

    async def cancel(self) -> None:
        """Stop the running download; what has arrived is kept."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def aclose(self) -> None:
        await self.cancel()

    async def _run(self, model: KnownModel) -> None:
        try:
            await download(model, self._settings, self._report, self._patience)
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
        running = self._running
        if running is not None and running.model.name == model.name:
            return running
        reason = self._reasons.get(model.name, "")
        if here:
            return DownloadState(model, "here")
        part = size_of(files.part_of(self._settings.models_dir, model.name))
        if part:
            return DownloadState(model, "partial", Progress("downloading", part, model.size_bytes), reason)
        return DownloadState(model, "absent", reason=reason)
