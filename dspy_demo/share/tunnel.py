"""`Tunnel`: the public link of this app, from the click to the last byte."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from dspy_demo.errors import DemoError, ShareFailed, in_seconds
from dspy_demo.logs import log_failure
from dspy_demo.processes import ChildProcess
from dspy_demo.share.gradio_bridge import GradioTunnel

log = logging.getLogger(__name__)

#: Longest time for the link to open: Gradio is imported, its program perhaps downloaded.
TIMEOUT_S = 60.0
#: Addresses to listen on that are none to connect to.
_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104
ENDED = "The public link ended. Share again for a new one."

Phase = Literal["off", "opening", "open", "closing", "failed"]
PHASES: tuple[str, ...] = get_args(Phase)


@dataclass(frozen=True, slots=True)
class ShareState:
    phase: Phase = "off"
    url: str = ""
    expires_at: float | None = None  #: Seconds since 1970; None where nobody knows.
    reason: str = ""  #: Why it failed.
    log_tail: str = ""  #: What the program wrote then.


class Tunnel:
    """The public link of the page that listens at `address`. For one event loop; `state` for any thread.

    `on_public` is called with True before a stranger can come, and with False when none can any more;
    `on_link` with each link that the tunnel program gives.
    """

    def __init__(
        self,
        program: GradioTunnel,
        address: tuple[str, int],
        data_dir: Path,
        *,
        on_public: Callable[[bool], None],
        on_link: Callable[[str], None],
    ) -> None:
        host, port = address
        self._program, self._address, self._data_dir = program, (_ANY.get(host, host), port), data_dir
        self._on_public, self._on_link = on_public, on_link
        self._state = ShareState()
        self._task: asyncio.Task[None] | None = None

    def state(self) -> ShareState:
        return self._state

    def begin(self) -> None:
        """Open the link in the background, unless it is open or on the way."""
        if self._task is None or self._task.done():
            self._state = ShareState("opening")
            self._task = asyncio.create_task(self._run(), name="share")

    async def close(self) -> None:
        """End the link, or the attempt; forget a failure. Safe at any time, more than once."""
        task = self._task
        if task is not None and not task.done():
            if self._state.phase != "closing":
                self._state = ShareState("closing")
                task.cancel()
            await asyncio.wait({task})
        if self._task is task:
            self._state = ShareState()

    async def _run(self) -> None:
        """The link from its beginning to its end; alone in ending the tunnel program."""
        ended = ShareState()
        child = ChildProcess(
            "tunnel program",
            self._program.command(*self._address),
            run_dir=self._data_dir / "logs",
            env=self._program.environment(),
            cwd=self._data_dir / "logs",  # Gradio writes a certificate into the working folder
            stop_grace_s=2.0,  # to sign off at the share server
            explain=self._program.why_ended,
        )
        self._on_public(True)
        try:
            await self._open_and_watch(child)
        except asyncio.CancelledError:
            pass  # by `close`
        except Exception as error:
            failure = DemoError.of(error)
            ended = ShareState("failed", reason=failure.public_message, log_tail=child.log_tail())
            log_failure(log, f"no public link: {ended.reason}", failure, wrote=ended.log_tail)
        self._state = ShareState("closing")
        await child.stop()
        self._on_public(False)
        self._state = ended

    async def _open_and_watch(self, child: ChildProcess) -> None:
        """Go all the way to the link, then look after it until it ends, which is an error."""
        deadline = time.monotonic() + TIMEOUT_S
        await child.start(timeout_s=TIMEOUT_S)
        while True:
            now = child.state()  # first, so that no line of an ended program is missed
            link = self._program.link(child.log_tail())
            if link not in {"", self._state.url}:
                lasts_s = self._program.lasts_s
                self._state = ShareState("open", link, time.time() + lasts_s if lasts_s else None)
                self._on_link(link)
            if now.phase != "ready":
                raise ShareFailed(ENDED if self._state.url else now.reason)
            if not self._state.url and time.monotonic() > deadline:
                raise ShareFailed(
                    f"The tunnel program gave no link within {in_seconds(TIMEOUT_S)}. Try again."
                )
            await asyncio.sleep(0.3)
