"""`Tunnel`: the public link of this app, from the click to the last byte.

    tunnel = Tunnel(settings, on_public=terminal.shared)
    tunnel.listening_at("127.0.0.1", 7860)
    tunnel.begin()              # returns at once; state() tells the rest
    url = await tunnel.open()   # the same, and waits for the link
    await tunnel.close()        # the tunnel program is gone when this returns

Everything happens in one task that owns the tunnel program. The page never waits for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, get_args

from dspy_demo.errors import ShareFailed, in_seconds
from dspy_demo.processes import ChildFailed, ChildProcess
from dspy_demo.settings import Settings

log = logging.getLogger(__name__)

#: Longest time for the link to open: Gradio is imported, its program perhaps downloaded.
TIMEOUT_S = 60.0
#: Seconds between two looks at the program: while the link is awaited, and afterwards.
OPENING_LOOK_S, OPEN_LOOK_S = 0.1, 0.5
#: Seconds that the program has to sign off at the share server.
STOP_GRACE_S = 2.0
#: Read at one look: a program that prints without end must not fill the memory.
LOOK_MAX_BYTES = 1_000_000
#: Addresses to listen on that are none to connect to.
_ANY = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}  # noqa: S104

NOT_LISTENING = "The page is not up yet. Share it in a moment."
BROKE_OFF = "The public link broke off: the tunnel program ended. Share again for a new link."
ENDED_BY_SERVER = "The share server ended the public link. Share again for a new one."
EXPIRED = "The public link has reached its end. Share again for a new one."
NOT_WRITABLE = "The data folder cannot be written to, and the tunnel needs a place there."


Phase = Literal["off", "opening", "open", "closing", "failed"]
PHASES: tuple[str, ...] = get_args(Phase)


@dataclass(frozen=True, slots=True)
class ShareState:
    """For the page, at any time.

    Attributes:
        step: What is being done, while it opens.
        url: The public link, while it is open.
        since: When it opened. Seconds since 1970, as `expires_at`.
        expires_at: When the share server ends it; None where nobody knows.
        interrupted: The way to the share server is down, and the tunnel program tries to get it back.
        reason: Why it failed, in one sentence.
        log_tail: The last lines of the tunnel program, after a failure of it.
    """

    phase: Phase = "off"
    step: str = ""
    url: str = ""
    since: float = 0.0
    expires_at: float | None = None
    interrupted: bool = False
    reason: str = ""
    log_tail: str = ""

    @property
    def active(self) -> bool:
        """It is open or on the way, so that strangers may come."""
        return self.phase in {"opening", "open", "closing"}


@dataclass(frozen=True, slots=True)
class Notice:
    """What a line of a tunnel program means; `text` is the link, or the sentence of a failure."""

    kind: Literal["link", "failed", "interrupted"]
    text: str = ""


class TunnelProgram(Protocol):
    """What opens a way from a public address to the page: one of these for each kind of tunnel.

    Attributes:
        lasts_s: How long its links last; None where nobody knows.
    """

    lasts_s: float | None

    def command(self, host: str, port: int) -> list[str]:
        """What to run for a page that listens there."""
        ...

    def environment(self, environ: Mapping[str, str]) -> dict[str, str]:
        """What it gets of our environment."""
        ...

    def read(self, line: str) -> Notice | None:
        """The meaning of a line that it printed."""
        ...

    def why_ended(self, code: int, log: str) -> str:
        """The sentence where it ended without a link."""
        ...


class Tunnel:
    """Owns the public link. For one event loop; `state` for any thread.

    Args:
        on_public: Called with True before a stranger can come, and with False when none can any more.
        on_link: Called with the link when the tunnel program has given it, and when it gives another one.
        program: What opens the tunnel; by default Gradio's.
        timeout_s: Longest time for the link to open.
        clock: Seconds since 1970.
        environ: Where the tunnel program finds the way to the network.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        on_public: Callable[[bool], None] = lambda _: None,
        on_link: Callable[[str], None] = lambda _: None,
        program: TunnelProgram | None = None,
        timeout_s: float = TIMEOUT_S,
        clock: Callable[[], float] = time.time,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        if program is None:
            from dspy_demo.share.gradio import GradioTunnel

            program = GradioTunnel(settings.share_server)
        self._program, self._timeout_s = program, timeout_s
        self._data_dir = settings.data_dir
        self._environ = environ
        self._on_public = on_public
        self._on_link = on_link
        self._clock = clock
        self._local: tuple[str, int] | None = None
        self._state = ShareState()
        self._work: asyncio.Task[None] | None = None  # opens and watches; may be cancelled
        self._owner: asyncio.Task[None] | None = None  # tidies up after it; may not
        self._settled = asyncio.Event()
        self._public = False
        self._child: ChildProcess | None = None
        self._read_to = 0  # bytes of the child's log

    def listening_at(self, host: str, port: int) -> None:
        """Say where the page is; a link can be opened from then on."""
        self._local = (_ANY.get(host, host), port)

    def state(self) -> ShareState:
        return self._state

    def begin(self) -> None:
        """Open the link in the background, unless it is open or on the way."""
        if self._state.active:
            return
        self._state = ShareState("opening", step="Starting")
        self._settled = asyncio.Event()
        self._work = asyncio.create_task(self._open_and_watch(), name="share-work")
        self._owner = asyncio.create_task(self._own(self._work), name="share")

    async def open(self) -> str:
        """Open the link and wait for it; leaving the wait early does not stop it.

        Raises:
            ShareFailed: There is no link at the deadline, or there cannot be one, or it was closed meanwhile.
        """
        if self._state.phase == "closing" and self._owner is not None:
            await asyncio.wait({self._owner})
        self.begin()
        await self._settled.wait()
        state = self._state
        if state.phase != "open":
            raise ShareFailed(state.reason or "The public link was closed before it was open.")
        return state.url

    async def close(self) -> None:
        """End the link, or the attempt. Safe at any time, more than once."""
        if not self._state.active or self._owner is None or self._work is None:
            self._state = ShareState()
            return
        self._state = dataclasses.replace(self._state, phase="closing")
        self._work.cancel()
        await asyncio.wait({self._owner})

    async def _own(self, work: asyncio.Task[None]) -> None:
        reason = log_tail = ""
        try:
            await asyncio.wait({work})
            reason = _why_ended(work)
        finally:
            if self._child is not None:
                # One without a link has nothing to sign off, and the deadline may have passed.
                await self._child.stop(0 if self._state.phase == "opening" else None)
                log_tail = self._child.log_tail()
                if reason:
                    code = self._child.state().exit_code
                    log.warning("the tunnel program ended", extra={"exit_code": code, "wrote": log_tail})
                self._child = None
            failed = reason and self._state.phase != "closing"
            self._state = ShareState("failed", reason=reason, log_tail=log_tail) if failed else ShareState()
            self._settled.set()
            if self._public:
                self._public = False
                self._on_public(False)

    async def _open_and_watch(self) -> None:
        """Go all the way to the link, then look after it until it ends, which is an error."""
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._start()
                while not self._look():  # noqa: ASYNC110 - the program tells only its log
                    await asyncio.sleep(OPENING_LOOK_S)
        except TimeoutError:
            limit = in_seconds(self._timeout_s)
            raise ShareFailed(f"The tunnel program gave no link within {limit}. Try again.") from None
        now, lasts_s = self._clock(), self._program.lasts_s
        expires_at = None if lasts_s is None else now + lasts_s
        self._state = dataclasses.replace(
            self._state, phase="open", step="", since=now, expires_at=expires_at
        )
        self._settled.set()
        while expires_at is None or self._clock() < expires_at:
            await asyncio.sleep(OPEN_LOOK_S)
            self._look()
        raise ShareFailed(EXPIRED)

    async def _start(self) -> None:
        if self._local is None:
            raise ShareFailed(NOT_LISTENING)
        folder = self._data_dir / "share"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ShareFailed(NOT_WRITABLE) from error
        self._state = dataclasses.replace(self._state, step="Opening the tunnel")
        self._public = True
        self._on_public(True)
        self._child = child = ChildProcess(
            "tunnel program",
            self._program.command(*self._local),
            run_dir=self._data_dir / "logs",
            env=self._program.environment(self._environ),
            cwd=folder,
            stop_grace_s=STOP_GRACE_S,
            explain=self._program.why_ended,
        )
        self._read_to = 0
        try:
            await child.start(timeout_s=self._timeout_s)
        except ChildFailed as error:
            raise ShareFailed(error.public_message) from None

    def _look(self) -> str:
        """The link that the program has by now; empty before it has one.

        Raises:
            ShareFailed: The program has ended, or says that it cannot.
        """
        assert self._child is not None
        child = self._child.state()  # first, so that no line of an ended program is missed
        opening = self._state.phase == "opening"
        for found in filter(None, map(self._program.read, self._new_lines(self._child.log_path))):
            if found.kind == "link":
                before = self._state.url
                self._state = dataclasses.replace(self._state, url=found.text, interrupted=False)
                if found.text != before:
                    self._on_link(found.text)
            elif not opening:
                self._state = dataclasses.replace(self._state, interrupted=True)  # it tries again by itself
            elif found.kind == "failed":
                raise ShareFailed(found.text)
        if child.phase in {"stopped", "failed"}:
            ended = ENDED_BY_SERVER if child.exit_code == 0 else BROKE_OFF
            raise ShareFailed(child.reason if opening else ended)
        return self._state.url

    def _new_lines(self, log_path: Path) -> list[str]:
        """The complete lines that were added since the last look."""
        with contextlib.suppress(FileNotFoundError), log_path.open("rb") as file:
            file.seek(self._read_to)
            whole, newline, _ = file.read(LOOK_MAX_BYTES).rpartition(b"\n")
            self._read_to += len(whole + newline)
            return whole.decode("utf-8", "replace").splitlines()
        return []


def _why_ended(work: asyncio.Task[None]) -> str:
    """The sentence of a failure; empty where the link was closed."""
    if work.cancelled():
        return ""
    error = work.exception()
    if isinstance(error, ShareFailed):
        cause = repr(error.__cause__ or error)
        log.warning("no public link", extra={"error_id": error.error_id, "cause": cause})
        return error.public_message
    failure = ShareFailed()
    log.error("the public link failed", extra={"error_id": failure.error_id}, exc_info=error)
    return failure.public_message
