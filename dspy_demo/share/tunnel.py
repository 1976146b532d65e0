"""`Tunnel`: the public link of this app, from the click to the last byte.

    tunnel = Tunnel(settings, on_public=gate.shut)
    tunnel.listening_at("127.0.0.1", 7860)
    tunnel.begin()              # returns at once; state() tells the rest
    url = await tunnel.open()   # the same, and waits for the link
    await tunnel.close()        # the tunnel program is gone when this returns

Everything happens in one task that owns the tunnel program. The page next door never waits for it.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import httpx

from dspy_demo.errors import ShareFailed, in_seconds
from dspy_demo.processes import ChildFailed, ChildProcess, plain_environment
from dspy_demo.settings import Settings
from dspy_demo.share.frpc import LogReader, command, notice, why_ended
from dspy_demo.share.gradio_service import GradioService, gradio_service
from dspy_demo.share.program import gradio_program, own_program
from dspy_demo.share.share_server import ShareServer, gradio_server, own_server, public_url
from dspy_demo.share.state import ShareState

log = logging.getLogger(__name__)

#: Seconds between two looks at the program: while the link is awaited, and afterwards.
OPENING_LOOK_S, OPEN_LOOK_S = 0.1, 0.5
#: Seconds that the program has to sign off at the share server.
STOP_GRACE_S = 2.0
#: Addresses to listen on that are none to connect to.
_ANY = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}  # noqa: S104

NOT_LISTENING = "The page is not up yet. Share it in a moment."
BROKE_OFF = "The public link broke off: the tunnel program ended. Share again for a new link."
ENDED_BY_SERVER = "The share server ended the public link. Share again for a new one."
EXPIRED = "The public link has reached its end. Share again for a new one."


class Tunnel:
    """Owns the public link. For one event loop; `state` for any thread.

    Args:
        on_public: Called with True before a stranger can come, and with False when none can any more.
        on_link: Called with the link when the tunnel program has given it, and when it gives another one.
        service: Where Gradio's share service is; by default what the installed Gradio says.
        clock: Seconds since 1970.
        environ: Where the tunnel program finds the way to the network; it gets no more of it.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        on_public: Callable[[bool], None] = lambda _: None,
        on_link: Callable[[str], None] = lambda _: None,
        service: Callable[[], GradioService] = gradio_service,
        clock: Callable[[], float] = time.time,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self._settings = settings
        self._environ = environ
        self._on_public = on_public
        self._on_link = on_link
        self._service = service
        self._clock = clock
        self._folder = settings.data_dir / "share"
        self._local: tuple[str, int] | None = None
        self._state = ShareState()
        self._work: asyncio.Task[None] | None = None  # opens and watches; may be cancelled
        self._owner: asyncio.Task[None] | None = None  # tidies up after it; may not
        self._settled = asyncio.Event()
        self._late = ""
        self._public = False
        self._child: ChildProcess | None = None

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
        timeout_s = self._settings.share_timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                server = await self._link()
        except TimeoutError:
            raise ShareFailed(f"{self._late} within {in_seconds(timeout_s)}. Try again.") from None
        now = self._clock()
        expires_at = None if server.lasts_s is None else now + server.lasts_s
        self._state = dataclasses.replace(
            self._state, phase="open", step="", since=now, expires_at=expires_at
        )
        self._settled.set()
        while expires_at is None or self._clock() < expires_at:
            await asyncio.sleep(OPEN_LOOK_S)
            self._look(server)
        raise ShareFailed(EXPIRED)

    # --- the steps to the link ---

    async def _link(self) -> ShareServer:
        """Go all the way until the program has given a link; the server that it goes to."""
        if self._local is None:
            raise ShareFailed(NOT_LISTENING)
        server, program = await self._server_and_program()
        self._step("Opening the tunnel", "The tunnel program gave no link")
        self._public = True
        self._on_public(True)
        self._child = child = ChildProcess(
            "tunnel program",
            command(program, server, *self._local),
            run_dir=self._settings.data_dir / "logs",
            env=plain_environment(self._environ),
            stop_grace_s=STOP_GRACE_S,
            explain=why_ended,
        )
        self._output = LogReader(child.log_path)
        try:
            await child.start(timeout_s=self._settings.share_timeout_s)
        except ChildFailed as error:
            raise ShareFailed(error.public_message) from None
        while True:
            if self._look(server):
                return server
            await asyncio.sleep(OPENING_LOOK_S)

    async def _server_and_program(self) -> tuple[ShareServer, Path]:
        server = own_server(self._settings)
        own = self._settings.share_binary
        program = own_program(own) if own else None
        if server and program:
            return server, program
        service = self._service()
        # The one deadline is for all steps together. Proxies are as in the environment.
        async with httpx.AsyncClient(timeout=None) as client:  # noqa: S113
            if server is None:
                self._step("Asking Gradio for a share server", "Gradio's share service did not answer")
                server = await gradio_server(client, service.api_url, self._folder)
            if program is None:
                late = "The tunnel program could not be downloaded"
                self._step("Looking for the tunnel", late)
                progress = partial(self._step, late=late)
                program = await gradio_program(client, service, self._folder, progress)
        return server, program

    def _step(self, text: str, late: str) -> None:
        """What is being done, and what to say if that meets the deadline."""
        self._state, self._late = dataclasses.replace(self._state, step=text), late

    def _look(self, server: ShareServer) -> str:
        """The link that the program has by now; empty before it has one.

        Raises:
            ShareFailed: The program has ended, or says that it cannot.
        """
        assert self._child is not None
        child = self._child.state()  # first, so that no line of an ended program is missed
        opening = self._state.phase == "opening"
        for found in filter(None, map(notice, self._output.new_lines())):
            if found.kind == "link":
                url, before = public_url(found.text, server), self._state.url
                self._state = dataclasses.replace(self._state, url=url, interrupted=False)
                if url != before:
                    self._on_link(url)
            elif not opening:
                self._state = dataclasses.replace(self._state, interrupted=True)  # it tries again by itself
            elif found.kind == "failed":
                raise ShareFailed(found.text)
        if not child.running:
            ended = ENDED_BY_SERVER if child.exit_code == 0 else BROKE_OFF
            raise ShareFailed(child.reason if opening else ended)
        return self._state.url


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
