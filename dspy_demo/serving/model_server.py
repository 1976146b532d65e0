"""Model servers as the page sees them: serve a version, switch to another without a failed turn, stop.

    servers = ModelServers(settings)
    await servers.serve(Wanted("models:/demo/3"))    # ready, or ChildFailed; `state()` tells more meanwhile
    await servers.serve(Wanted("models:/demo/4"))    # the old one goes when its last turn has ended
    await servers.beside(Wanted("models:/demo/1"))   # for a comparison; ends by itself
    await servers.stop()

All of it belongs to one event loop; `state` may be called from any thread.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping

from dspy_demo.processes import ChildFailed
from dspy_demo.serving.version_process import ServerPhase, ServerState, VersionProcess, Wanted
from dspy_demo.settings import Settings

#: Servers for comparisons: one for each side. Each is as large as the app.
BESIDE_MAX = 2
#: They end when nobody has asked for them for so long.
BESIDE_IDLE_S = 600.0


class ModelServers:
    """The model servers of this app: the current one, the next one, those beside it, and old ones that
    finish their turns.

    Args:
        environ: What the servers find in their environment, less what is not for them.
    """

    def __init__(self, settings: Settings, environ: Mapping[str, str] = os.environ) -> None:
        self._settings = settings
        self._environ = environ
        self._current: VersionProcess | None = None
        self._next: VersionProcess | None = None
        self._beside: dict[VersionProcess, asyncio.TimerHandle | None] = {}  # with its end; the latest last
        self._retiring: dict[asyncio.Task[None], VersionProcess] = {}
        self._turn = asyncio.Lock()

    # --- look ---

    def state(self) -> ServerState:
        """The current server, and under ``next`` the one that is to follow it."""
        following = self._next.state() if self._next else None
        if self._current is None:
            return following or ServerState()
        return self._current.state(following)

    async def phase(self) -> ServerPhase:
        """The current server's phase, or ``none``; it is asked whether it answers, at most every 5 s."""
        server = self._current or self._next
        if server is None:
            return "none"
        await server.look()
        return server.phase

    # --- act ---

    async def serve(self, wanted: Wanted) -> ServerState:
        """Start a server and make it the current one. The one before goes when its turns have ended.

        One that serves it already, with the same key, is taken as it is.

        Raises:
            ChildFailed: It did not start; what was current stays so.
        """
        async with self._turn:
            for server in (self._current, *self._beside):
                if server is not None and server.answers_for(wanted):
                    return self._make_current(server)
            self._next = VersionProcess(wanted, self._settings, self._environ)
            return await self._start_next(self._next)

    async def retry(self) -> ServerState:
        """Start the server that failed to become the current one once more.

        Raises:
            ChildFailed: There is none, or it did not start.
        """
        async with self._turn:
            if self._next is None:
                raise ChildFailed("Nothing is left to be tried again. Choose a version under “Versions”.")
            return await self._start_next(self._next)

    async def restart(self) -> ServerState:
        """Start the current server again, on the same version, after it failed or to take up a new alias.

        Raises:
            ChildFailed: There is none, or it did not start.
        """
        async with self._turn:
            server = self._current or self._next
            if server is None:
                raise ChildFailed("No version is being served. Choose one under “Versions”.")
            await server.stop()
            self._current, self._next = server, None
            await server.start()
            return server.state()

    async def beside(self, wanted: Wanted) -> ServerState:
        """A server for a comparison, which leaves the current one as it is.

        Raises:
            ChildFailed: It did not start.
        """
        if self._current is not None and self._current.answers_for(wanted):
            return self._current.state()
        found = (server for server in self._beside if server.wanted == wanted)
        server = next(found, None) or VersionProcess(wanted, self._settings, self._environ)
        self._take_from_beside(server)
        self._beside[server] = None
        while len(self._beside) > BESIDE_MAX:
            self._let_go(next(iter(self._beside)))
        await server.start()
        self._take_from_beside(server)
        self._beside[server] = asyncio.get_running_loop().call_later(BESIDE_IDLE_S, self._let_go, server)
        return server.state()

    async def stop(self, version: str | None = None) -> None:
        """End the servers of `version`, or all of them, also one that is starting."""
        servers = [server for server in self._all() if version is None or server.serves(version)]
        await asyncio.gather(*(server.stop() for server in servers))
        if self._next in servers:
            self._next = None
        for server in servers:
            self._take_from_beside(server)

    async def aclose(self) -> None:
        """End everything; for the app's exit."""
        for task in list(self._retiring):
            task.cancel()
        await self.stop()

    def _all(self) -> list[VersionProcess]:
        return [s for s in (self._current, self._next, *self._beside, *self._retiring.values()) if s]

    async def _start_next(self, server: VersionProcess) -> ServerState:
        await server.start()  # a failure stays visible as `next`
        self._next = None
        return self._make_current(server)

    def _make_current(self, server: VersionProcess) -> ServerState:
        before, self._current = self._current, server
        self._take_from_beside(server)
        if before is not None and before is not server:
            self._retire(before)
        return server.state()

    def _take_from_beside(self, server: VersionProcess) -> None:
        if timer := self._beside.pop(server, None):
            timer.cancel()

    def _let_go(self, server: VersionProcess) -> None:
        self._take_from_beside(server)
        self._retire(server)

    def _retire(self, server: VersionProcess) -> None:
        task = asyncio.create_task(server.retire(), name="retire-model-server")
        self._retiring[task] = server
        task.add_done_callback(self._retiring.pop)
