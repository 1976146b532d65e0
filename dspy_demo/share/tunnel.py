"""`Tunnel`: the public link of this app, from the click to the last byte."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, get_args

from dspy_demo.errors import DemoError, ShareFailed, in_seconds
from dspy_demo.logs import log_failure
from dspy_demo.processes import ChildProcess

log = logging.getLogger(__name__)

#: Longest time for the link to open: Gradio is imported, its program perhaps downloaded.
TIMEOUT_S = 60.0
#: Addresses to listen on that are none to connect to.
_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104

BROKE_OFF = "The public link broke off: the tunnel program ended. Share again for a new link."
ENDED_BY_SERVER = "The share server ended the public link. Share again for a new one."
EXPIRED = "The public link has reached its end. Share again for a new one."

Phase = Literal["off", "opening", "open", "closing", "failed"]
PHASES: tuple[str, ...] = get_args(Phase)


@dataclass(frozen=True, slots=True)
class ShareState:
    """For the page, at any time. `reason` says why it failed, `log_tail` is what the program wrote then."""

    phase: Phase = "off"
    url: str = ""
    expires_at: float | None = None  # seconds since 1970; None where nobody knows
    interrupted: bool = False  # the tunnel program tries to get back to the share server
    reason: str = ""
    log_tail: str = ""


class TunnelProgram(Protocol):
    """What opens a way from a public address to the page: one of these for each kind of tunnel."""

    #: How long its links last; None where nobody knows.
    lasts_s: float | None

    # What to run for a page that listens there, and what it gets of our environment.
    def command(self, host: str, port: int) -> list[str]: ...
    def environment(self, environ: Mapping[str, str]) -> dict[str, str]: ...
    # The link in a line that it printed; empty where the line says that there is none, None for other lines.
    def read(self, line: str) -> str | None: ...
    # The sentence where it ended without a link.
    def why_ended(self, code: int, log: str) -> str: ...


class Tunnel:
    """Owns the public link of the page that listens at `address`. For one event loop; `state` for any thread.

    Args:
        on_public: Called with True before a stranger can come, and with False when none can any more.
        on_link: Called with the link when the tunnel program has given it, and when it gives another one.
    """

    def __init__(
        self,
        program: TunnelProgram,
        address: tuple[str, int],
        data_dir: Path,
        *,
        on_public: Callable[[bool], None],
        on_link: Callable[[str], None] = lambda _: None,
    ) -> None:
        host, port = address
        self._program, self._address, self._data_dir = program, (_ANY.get(host, host), port), data_dir
        self._on_public, self._on_link = on_public, on_link
        self._state = ShareState()
        self._settled = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._child: ChildProcess | None = None

    def state(self) -> ShareState:
        return self._state

    def begin(self) -> None:
        """Open the link in the background, unless it is open or on the way."""
        if self._state.phase in {"off", "failed"}:
            self._state = ShareState("opening")
            self._settled = asyncio.Event()
            self._task = asyncio.create_task(self._run(), name="share")

    async def open(self) -> str:
        """Open the link and wait for it, or raise `ShareFailed`; leaving the wait early does not stop it."""
        if self._state.phase == "closing":
            await self.close()
        self.begin()
        await self._settled.wait()
        if self._state.phase != "open":
            raise ShareFailed(self._state.reason or "The public link was closed before it was open.")
        return self._state.url

    async def close(self) -> None:
        """End the link, or the attempt; forget a failure. Safe at any time, more than once."""
        if self._task is not None and not self._task.done():
            if self._state.phase != "closing":
                self._state = dataclasses.replace(self._state, phase="closing")
                self._task.cancel()
            await asyncio.wait({self._task})
        if self._state.phase in {"closing", "failed"}:  # closing: it was cancelled before its first step
            self._state = ShareState()
            self._settled.set()

    async def _run(self) -> None:
        """The link from its beginning to its end; alone in ending the tunnel program."""
        failure, wrote = None, ""
        try:
            await self._open_and_watch()
        except asyncio.CancelledError:
            pass  # by `close`
        except Exception as error:
            failure = DemoError.of(error)
        grace_s = None if self._state.url else 0  # without a link there is nothing to sign off
        self._state = dataclasses.replace(self._state, phase="closing")
        if child := self._child:
            await child.stop(grace_s)
            wrote, self._child = child.log_tail(), None
            self._on_public(False)
        self._state = ShareState()
        if failure is not None:
            log_failure(log, "no public link", failure, wrote=wrote)
            self._state = ShareState("failed", reason=failure.public_message, log_tail=wrote)
        self._settled.set()

    async def _open_and_watch(self) -> None:
        """Go all the way to the link, then look after it until it ends, which is an error."""
        try:
            async with asyncio.timeout(TIMEOUT_S):
                child = await self._start()
                while not self._look(child):  # noqa: ASYNC110 - the program tells only its log
                    await asyncio.sleep(0.1)
        except TimeoutError:
            sentence = f"The tunnel program gave no link within {in_seconds(TIMEOUT_S)}. Try again."
            raise ShareFailed(sentence) from None
        lasts_s = self._program.lasts_s
        expires_at = None if lasts_s is None else time.time() + lasts_s
        self._state = dataclasses.replace(self._state, phase="open", expires_at=expires_at)
        self._settled.set()
        while expires_at is None or time.time() < expires_at:
            await asyncio.sleep(0.5)
            self._look(child)
        raise ShareFailed(EXPIRED)

    async def _start(self) -> ChildProcess:
        folder = self._data_dir / "share"
        folder.mkdir(parents=True, exist_ok=True)
        self._on_public(True)
        self._child = ChildProcess(
            "tunnel program",
            self._program.command(*self._address),
            run_dir=self._data_dir / "logs",
            env=self._program.environment(os.environ),
            cwd=folder,
            stop_grace_s=2.0,  # to sign off at the share server
            explain=self._program.why_ended,
        )
        await self._child.start(timeout_s=TIMEOUT_S)
        return self._child

    def _look(self, child: ChildProcess) -> str:
        """The link that the program has by now, if any; `ShareFailed` where it has ended or says so."""
        now = child.state()  # first, so that no line of an ended program is missed
        read = map(self._program.read, child.log_tail().splitlines())
        said = [found for found in read if found is not None]
        before, link = self._state.url, next(filter(None, reversed(said)), self._state.url)
        if link != before:
            self._state = dataclasses.replace(self._state, url=link)
            self._on_link(link)
        if before:
            self._state = dataclasses.replace(self._state, interrupted=said[-1:] == [""])
            if now.phase in {"stopped", "failed"}:
                raise ShareFailed(ENDED_BY_SERVER if now.exit_code == 0 else BROKE_OFF)
        elif said[-1:] == [""]:
            raise ShareFailed(self._program.why_ended(1, child.log_tail()))
        elif now.phase in {"stopped", "failed"}:
            raise ShareFailed(now.reason)
        return link
